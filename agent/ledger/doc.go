// Package ledger knows what publishing costs: it counts each publish before it is made ([Ledger]), paces what may wait so
// that the month's operations last to the month's end, and forecasts the month of a configuration ([Plan]).
//
// The ledger promises that its count of the present billing month is never below what was sent in it: across kills and power cuts, if
// what counts waits with the publish until the store is durable; across clock jumps, once the clock is right again. (A clock that is trusted
// and wrong, and put right over a restart, looks like time that has passed.) It may count more than was sent. With [Hold] and [Thin] it lets no more leave than the month's budget, alarms included.
// Plans are computed with the encoder that the gateway publishes with.
// Nothing here claims to equal a cloud's bill.
package ledger
