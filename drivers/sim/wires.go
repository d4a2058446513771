package sim

// wireChips measure volts, amperes, gas, and temperature at the end of a wire.
var wireChips []ChipType
