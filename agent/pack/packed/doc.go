// Package packed is the packed payload of docs/packed.md: some hundreds to some thousands of readings in 1,024 bytes.
//
// A payload is decoded with its schema, which is published once and named by gateway, epoch and id. Whoever reads messages as
// they come, of whatever format, uses a [Receiver]: it keeps schemas, and payloads whose schema has not come yet, in a folder.
// Whoever has the schema uses [ParseSchema], [New] and [Coder.Decode]; [Peek] says which schema a payload needs.
//
// Decoding refuses what is damaged or hostile with an error, in bounded time and memory. It never panics.
package packed
