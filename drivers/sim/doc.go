// Package sim is a site without a site: pseudo-terminals with devices behind them, chips on
// simulated I2C and SPI buses, and the faults that real ones have.
//
// A [World] holds them by name. Tests use it in the same process ([World.Open]); another process
// reaches it through a unix socket ([World.Serve]) whose path stands in $HOMEWARD_SIM ([Open],
// [PortPath], [Clock]), so that the very program which reads real buses reads these.
//
// It promises that a chip answers as its datasheet says, from formulas written apart
// from the drivers', and that every value handed out is told to [World.Served]. It loses whatever
// a simulated fault is meant to lose.
package sim
