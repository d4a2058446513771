package sim

// airChips measure temperature, humidity and light.
var airChips []ChipType
