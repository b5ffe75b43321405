// The accelerator on LiteDRAM's native port; while `outside`, the bench has the port instead.
module board(
    input clk, input rst, input rst_machine, input start, input outside,
    input out_cmd_valid, input out_cmd_we, input [24:0] out_cmd_addr,
    input out_wdata_valid, input [127:0] out_wdata,
    output cmd_valid, output cmd_ready, output cmd_we, output [24:0] cmd_addr,
    output wdata_valid, output wdata_ready, output rdata_valid, output [127:0] rdata,
    output halted, output [31:0] cycles
);
  wire its_cmd_valid, its_cmd_we, its_wdata_valid;
  wire [23:0] its_cmd_addr;
  wire [127:0] its_wdata;
  machine machine(
      .clk(clk), .rst(rst_machine), .start(start), .halted(halted), .cycles(cycles),
      .cmd_valid(its_cmd_valid), .cmd_ready(cmd_ready & ~outside), .cmd_we(its_cmd_we),
      .cmd_addr(its_cmd_addr), .wdata_valid(its_wdata_valid),
      .wdata_ready(wdata_ready & ~outside), .wdata(its_wdata),
      .rdata_valid(rdata_valid & ~outside), .rdata(rdata));
  assign cmd_valid = outside ? out_cmd_valid : its_cmd_valid;
  assign cmd_we = outside ? out_cmd_we : its_cmd_we;
  assign cmd_addr = outside ? out_cmd_addr : {1'b0, its_cmd_addr};
  assign wdata_valid = outside ? out_wdata_valid : its_wdata_valid;
  litedram litedram(
      .sys_clk(clk), .sys_rst(rst), .cmd_valid(cmd_valid), .cmd_ready(cmd_ready),
      .cmd_we(cmd_we), .cmd_addr(cmd_addr), .wdata_valid(wdata_valid), .wdata_ready(wdata_ready),
      .wdata(outside ? out_wdata : its_wdata), .rdata_valid(rdata_valid), .rdata(rdata));
endmodule
