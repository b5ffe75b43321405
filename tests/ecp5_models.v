// What three hard blocks of an ECP5 do, as far as the accelerator uses them: written by us, for pins and
// parameters to which yosys maps memories and products too. Others than these end the simulation.

module MULT18X18D #(
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTB_CLK = "NONE",
  parameter REG_INPUTB_CE = "CE0", REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0",
  parameter REG_PIPELINE_CLK = "NONE"
) (
  input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17,
  input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17,
  input C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, CE1, RST0,
  output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17,
  output P18, P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35
);
  initial
    if (REG_INPUTA_CLK != "CLK0" || REG_INPUTB_CLK != "CLK0" || REG_OUTPUT_CLK != "CLK0"
        || REG_INPUTA_CE != "CE0" || REG_INPUTB_CE != "CE1" || REG_OUTPUT_CE != "CE0"
        || REG_PIPELINE_CLK != "NONE") begin
      $display("MULT18X18D: not modelled");
      $fatal;
    end
  reg signed [17:0] a = 0, b = 0;
  reg signed [35:0] p = 0;
  always @(posedge CLK0) begin
    if (RST0) begin
      a <= 0;
      b <= 0;
      p <= 0;
    end else begin
      if (CE0) a <= {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
      if (CE1) b <= {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
      if (CE0)
        p <= $signed({SIGNEDA & a[17], a}) * $signed({SIGNEDB & b[17], b});
    end
  end
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
          P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = p;
endmodule

module DP16KD #(
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG",
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000",
  parameter CSDECODE_B = "0b000", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL", GSR = "AUTO"
) (
  input ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12, ADA13,
  input ADB0, ADB1, ADB2, ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12, ADB13,
  input DIA0, DIA1, DIA2, DIA3, DIA4, DIA5, DIA6, DIA7, DIA8, DIA9, DIA10, DIA11, DIA12, DIA13,
  input DIA14, DIA15, DIA16, DIA17,
  input DIB0, DIB1, DIB2, DIB3, DIB4, DIB5, DIB6, DIB7, DIB8, DIB9, DIB10, DIB11, DIB12, DIB13,
  input DIB14, DIB15, DIB16, DIB17,
  input CLKA, CLKB, CEA, CEB, OCEA, OCEB, WEA, WEB, RSTA, RSTB, CSA0, CSA1, CSA2, CSB0, CSB1, CSB2,
  output DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8, DOB9, DOB10, DOB11, DOB12, DOB13,
  output DOB14, DOB15, DOB16, DOB17
);
  initial
    if (DATA_WIDTH_A != DATA_WIDTH_B || CSDECODE_A != "0b000" || CSDECODE_B != "0b000"
        || WRITEMODE_A != "NORMAL" || (REGMODE_B != "NOREG" && REGMODE_B != "OUTREG")) begin
      $display("DP16KD: not modelled");
      $fatal;
    end
  localparam LOW = DATA_WIDTH_A == 18 ? 4 : DATA_WIDTH_A == 9 ? 3 : DATA_WIDTH_A == 4 ? 2
                   : DATA_WIDTH_A == 2 ? 1 : 0;
  localparam W = DATA_WIDTH_A;
  reg [W-1:0] words[0:(1 << (14 - LOW)) - 1];
  reg [17:0] read = 0, held = 0;
  wire [13:0] a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [17:0] in = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
                    DIA4, DIA3, DIA2, DIA1, DIA0};
  wire selected_a = !(CSA0 | CSA1 | CSA2), selected_b = !(CSB0 | CSB1 | CSB2);
  wire writes = CEA & WEA & selected_a;
  always @(posedge CLKA)
    if (writes) begin
      if (W < 18) words[a[13:LOW]] <= in[W-1:0];
      else begin
        if (a[0]) words[a[13:LOW]][8:0] <= in[8:0];
        if (a[1]) words[a[13:LOW]][W-1:9] <= in[W-1:9];
      end
    end
  always @(posedge CLKB)
    if (CEB & selected_b) begin
      // What is written meanwhile is not defined: here it is inverted.
      read <= words[b[13:LOW]] ^ {18{writes && a[13:LOW] == b[13:LOW]}};
      if (OCEB) held <= read;
    end
  wire [17:0] out = REGMODE_B == "OUTREG" ? held : read;
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4,
          DOB3, DOB2, DOB1, DOB0} = out;
endmodule

// Its frequency does not matter where all is simulated by one clock.
module EHXPLLL #(
  parameter PLLRST_ENA = "", INTFB_WAKE = "", STDBY_ENABLE = "", DPHASE_SOURCE = "",
  parameter OUTDIVIDER_MUXA = "", CLKOP_ENABLE = "", FEEDBK_PATH = "", CLKI_DIV = 1, CLKFB_DIV = 1,
  parameter CLKOP_DIV = 1, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0
) (
  input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG,
  input PLLWAKESYNC, ENCLKOP,
  output CLKOP, LOCK
);
  assign CLKOP = CLKI;
  assign LOCK = 1;
endmodule
