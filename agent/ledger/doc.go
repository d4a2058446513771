// Package ledger knows what publishing costs: the billing month, and what the month ahead
// will bring with a configuration ([Plan]).
//
// It promises figures that are computed with the encoder that the gateway publishes with, on
// readings as the configuration makes them. It never claims to equal a cloud's bill.
package ledger
