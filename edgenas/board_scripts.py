"""What is run on a board: scripts for any POSIX sh, filled in by ``str.format``.

A job is a folder of its own, named by a token that its client drew, so nothing is ever taken from
another by name. ``pids`` in it: each of its processes with the time at which it started; ``boot``
and ``space``: which start of the board, and which namespace, these numbers are of. What does not
match in all of them is somebody else's, and is left alone.
"""

BUSY = 75
NOT_OURS, FOREIGN = 76, 77
MARK = ".edgenas-board"
_TOKEN = "[0-9a-f]" * 32

# enter: make the folder with its mark, or see that it is ours. One of a version that made no mark
# is known by the forms of all its names and by the hash of a file; of any other nothing is touched.
_ENTER = f"""
token={_TOKEN}
enter() {{{{ (
  [ -d {{folder}} ] || mkdir -p {{folder}} || exit
  cd {{folder}} || exit
  [ -f {MARK} ] && [ ! -L {MARK} ] && exit 0
  here=$(pwd -P) strange= home=
  [ -z "$HOME" ] || home=$(cd "$HOME" && pwd -P)
  case "$here" in
    /|"$home") echo "$here is not a folder for edgenas alone" >&2; exit {FOREIGN}
  esac
  for found in .* * files/.* files/* jobs/.* jobs/* jobs/*/* lock/*; do
    [ -z "$strange" ] || break
    if [ -L "$found" ]; then strange=$found; break
    elif [ -d "$found" ]; then found=$found/
    elif [ ! -e "$found" ]; then continue; fi
    case "$found" in
      ./|../|*/./|*/../|{MARK}) ;;
      files/|files/__pycache__/|jobs/|lock/|lock/pid|lock/who|part-$token|part-$token/) ;;
      scratch-$token/|scratch-$token-$token/) ;;
      files/$token*/) strange=$found ;;
      files/$token|files/$token.*) ;;
      jobs/$token/|jobs/.$token-*/|jobs/.$token-*/*|jobs/$token/.$token-*/) ;;
      jobs/$token/boot|jobs/$token/space|jobs/$token/client|jobs/$token/who) ;;
      jobs/$token/pid|jobs/$token/pids|jobs/$token/started) ;;
      jobs/$token/out|jobs/$token/err|jobs/$token/code|jobs/$token/part) ;;
      *) strange=$found ;;
    esac
  done
  if command -v sha256sum; then sum=sha256sum
  elif command -v shasum; then sum='shasum -a 256'
  else sum=; fi > /dev/null
  unlike=
  for found in files/*; do
    [ -z "$strange" ] && [ "$sum" ] && [ -s "$found" ] || continue
    name=${{{{found#files/}}}}
    case "$($sum < "$found")" in
      "${{{{name%%.*}}}}"*) unlike=; break ;;
      *) unlike=$found ;;
    esac
  done
  if [ "$strange$unlike" ]; then
    echo "$here is not a folder for edgenas alone: it holds ${{{{strange:-$unlike}}}}" >&2
    exit {FOREIGN}
  fi
  echo "edgenas removes what it made here; nothing else is touched" > {MARK}
) }}}}
enter || exit
"""

# facts: when the process $1 started, and its group; nothing of one that is dead, or dead unburied.
_FACTS = """
facts() {{
  born= group=
  if [ -d /proc/self ]; then
    {{ read -r stat < "/proc/$1/stat"; }} 2>/dev/null || return 0
    set -- ${{stat##*) }}
    case "$1" in ''|Z|X) return 0;; esac
    group=$3; shift 19; born=$1
  else
    born=$(ps -o lstart= -p "$1" 2>/dev/null)
    group=$(ps -o pgid= -p "$1" 2>/dev/null); group=${{group##* }}
  fi
}}
"""

# live: whether the job $1 runs; its process is left in $pid. What cannot be seen may be running.
# stop: end of the job $1 what is certainly it.
_JOBS = (
    _FACTS
    + """
{{ read -r boot < /proc/sys/kernel/random/boot_id; }} 2>/dev/null ||
  boot=$(sysctl -n kern.bootsessionuuid 2>/dev/null)
space=$(readlink /proc/self/ns/pid 2>/dev/null)
ours() {{
  {{ read -r found < "$1/boot"; }} 2>/dev/null && [ "$found" = "$boot" ]
}}
seen() {{
  {{ read -r found < "$1/space"; }} 2>/dev/null && [ "$found" = "$space" ]
}}
live() {{
  pid= group=
  ours "$1" && [ -s "$1/pids" ] && [ ! -s "$1/code" ] || return 1
  seen "$1" || return 0
  while read -r pid was; do
    facts "$pid"
    if [ "$was" ]; then [ "$born" = "$was" ] && return 0
    elif kill -0 "$pid" 2>/dev/null; then return 0; fi
  done < "$1/pids"
  return 1
}}
stop() {{
  ours "$1" && [ -s "$1/pids" ] || return 0
  seen "$1" || return 1
  while read -r pid was; do
    facts "$pid"
    [ "$was" ] && [ "$born" = "$was" ] || continue
    grep -q "^$group " "$1/pids" && kill -9 "-$group" 2>/dev/null
    kill -9 "$pid" 2>/dev/null
  done < "$1/pids"
  return 0
}}
"""
)

# Ages are by the clock of the board, which may jump: what is wanted now is made young, and what a
# session has brought is swept by none of its own commands.
SWEEP = """[ -n "$busy" ] ||
  find . ! -name . -prune -type f \\( -name "$token" -o -name "$token.*" \\) \\
    -mtime +{unused_days} -exec rm -f {{}} +"""

# What is a day old is gone through only while nothing runs.
LIST = (
    _ENTER
    + _JOBS
    + """
cd {folder} || exit
mkdir -p files || exit
old() {{ [ -e "$1" ] && [ "$(find "$1" -prune -mtime +{left_days})" ]; }}
busy=
for job in jobs/$token; do
  if live "$job"; then busy=1
  elif old "$job"; then rm -rf "$job"; fi
done
for left in jobs/.$token-* part-$token scratch-$token scratch-$token-$token; do
  case "$left" in scratch-{session}-*) continue;; esac
  [ -z "$busy" ] && old "$left" && rm -rf "$left"
done
if [ -d lock ] && [ ! -L lock ] && [ -z "$busy" ] && old lock; then  # of an older version
  rm -f lock/pid lock/who; rmdir lock 2>/dev/null
fi
cd files || exit
there=
for name in {names}; do
  if [ -f "$name" ] && [ ! -L "$name" ]; then there="$there $name"
  elif [ -e "$name" ] || [ -L "$name" ]; then rm -rf "$name"; fi
done
[ -z "$there" ] || find $there -mtime +0 -exec touch {{}} +
{sweep}
if command -v sha256sum; then sum=sha256sum
elif command -v shasum; then sum='shasum -a 256'
else sum='wc -c'; fi > /dev/null
[ -z "$there" ] || echo "$there" | xargs $sum 2>/dev/null
exit 0
"""
)

# Bytes come from a place in the file on that can be told again, so that those which arrive twice,
# of two clients or of one that was cut off, are the same ones. Answers how many are there.
TAKE = """
cd {folder} || exit
size() {{ [ -f {part} ] && at=$(($(wc -c < {part}))) || at=0; }}
size
[ $((at / {block})) -eq {start} ] || {{ echo $at; exit 0; }}
said=$(dd of={part} bs={block} seek={start} conv=notrunc 2>&1) ||
  {{ echo "$said" >&2; rm -f {part}; exit 1; }}
size
[ $at -ge {whole} ] || {{ echo $at; exit 0; }}
got={digest}
if command -v sha256sum; then got=$(sha256sum < {part})
elif command -v shasum; then got=$(shasum -a 256 < {part}); fi > /dev/null
if [ $at -ne {whole} ] || [ "${{got%% *}}" != {digest} ]; then rm -f {part}; echo 0; exit 0; fi
mkdir {unpacked} && tar xf {part} -C {unpacked} && touch {unpacked}/* &&
  mv -f {unpacked}/* files/
code=$?
if [ $code -eq 0 ]; then echo done
elif [ ! -f {part} ]; then code=0; echo 0; fi
rm -rf {unpacked} {part}
exit $code
"""

# Nothing is replaced before all of it lies there whole: aside on the same disk, by size and hash.
# What lies there is replaced where .edgenas says that it was put there, as it is now.
PLACE = (
    f"token={_TOKEN}"
    + """
hash() {{ [ -z "$tool" ] || $tool < "$1" | cut -c 1-64; }}
whole() {{
  [ "$(wc -c < "$1")" -eq "$2" ] || return 1
  [ -z "$tool" ] || [ "$(hash "$1")" = "$3" ]
}}
ours() {{
  now=$(hash "$into/$1")
  while read -r was name; do
    [ "$name" = "$1" ] && {{ [ -z "$tool" ] || [ "$was" = "$now" ]; }} && return 0
  done 2> /dev/null < "$into/{mark}"
  return 1
}}
bring() {{
  if [ -d "$into/$4" ]; then echo "$into/$4 is a folder" >&2; exit 1; fi
  if [ -L "$into/$4" ] || {{ [ -e "$into/$4" ] && ! ours "$4"; }}; then
    echo "$into/$4" >&2; exit {not_ours}
  fi
  cp "$1" "$part/$4" || {{ echo "what was in $into is as it was" >&2; exit 1; }}
  whole "$part/$4" "$2" "$3" || {{
    rm -f "$1"
    echo "$4 did not arrive whole, what was in $into is as it was: try again" >&2
    exit 1
  }}
}}
into={into}
tool=sha256sum; command -v sha256sum > /dev/null || tool='shasum -a 256'
command -v "${{tool%% *}}" > /dev/null || tool=
mkdir -p "$into" || exit
into=$(CDPATH= cd "$into" && pwd) || exit
part=$into/.edgenas-part-{token}
if [ -L "$into/{mark}" ] || [ -d "$into/{mark}" ]; then echo "$into/{mark}" >&2; exit {not_ours}; fi
find "$into" -maxdepth 1 -type d -name ".edgenas-part-$token" -mtime +0 -exec rm -rf {{}} +
mkdir "$part" || exit
trap 'rm -rf "$part"' EXIT
{bring}
sync "$part"/* 2> /dev/null || sync
{{ cat "$into/{mark}" 2> /dev/null; cat << 'EDGENAS'
{placed}EDGENAS
}} > "$part/told" && sort -u "$part/told" > "$part/{mark}" &&
  mv -f "$part/{mark}" "$into/{mark}" || {{
  echo "what was in $into is as it was" >&2; exit 1
}}
{move}
printf '%s\\n' "$into"
"""
)

# The wrapper outlives the connection. It says what it is before it starts anything.
WRAPPER = (
    _FACTS
    + """
facts $$; echo "$$ $born" >> {job}/pids
{command} > {job}/out 2> {job}/err < /dev/null &
facts $!; echo "$! $born" >> {job}/pids
wait $!
echo $? > {job}/part
mv {job}/part {job}/code
"""
)

# A job shows itself whole, then looks at the others: of two at one instant the later one sees the
# other. While both see each other, the one of the lesser name waits until the other has given way.
START = (
    _ENTER
    + _JOBS
    + """
umask 077
if [ -d {job} ]; then
  if [ -s {job}/code ] || live {job}; then exit 0; fi
  rm -rf {job}
fi
new={folder}/jobs/.{token}-$$
mkdir -p {folder}/jobs && mkdir "$new" || exit
echo {who} > "$new/who"; echo {client} > "$new/client"
echo "$boot" > "$new/boot"; echo "$space" > "$new/space"
facts $$; echo "$$ $born" > "$new/pids" || exit
mv "$new" {job} || exit
if [ -d {job}/.{token}-$$ ]; then rm -rf {job}/.{token}-$$; exit 0; fi
looks=0
while :; do
  rival= before=1
  for other in {folder}/jobs/$token; do
    if [ "$other" = {job} ]; then before=
    elif live "$other"; then rival=$other; break; fi
  done
  [ "$rival" ] || break
  looks=$((looks + 1))
  if [ "$before" ] || [ -f "$rival/started" ] || [ $looks -gt 20 ]; then
    echo "${{rival##*/}}"; cat "$rival/client" "$rival/who"
    if [ "$group" ] && [ "$group" = "$pid" ]; then echo "kill -9 -- -$pid"
    elif [ "$pid" ]; then echo "kill -9 $pid"; fi
    rm -rf {job}
    exit {busy}
  fi
  sleep 1
done
: > {job}/started
$(command -v setsid) sh -c {wrapper} > /dev/null 2>&1 < /dev/null &
facts $!; echo "$! $born" >> {job}/pids
exit 0
"""
)

# Whether it runs is asked before what it said is read: once it has ended, all it said is there.
# How much that is at least is told, for an answer can be cut short with no word of it.
LOOK = (
    _JOBS
    + """
cd {job} 2>/dev/null || {{ echo lost 0; exit; }}
state=gone
live . && state=running
ours . || state=rebooted
[ -s code ] && read -r state < code
[ -f out ] || {{ echo "$state 0"; exit 0; }}
for said in out err; do
  [ ! -f $said ] || [ $(($(wc -c < $said))) -le {most} ] || {{ echo endless 0; exit 0; }}
done
echo "$state $(($(wc -c < out)))"
tail -c +{start} out
exit 0
"""
)

SCRATCH = _ENTER + "mkdir -p {scratch}"

STOP = (
    _JOBS
    + """
stop {job} && rm -rf {job}
exit 0
"""
)
