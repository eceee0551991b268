// Package cluster is the vocabulary of mlxctl: nodes, models, replicas, requests, chunks, snapshots, placements and
// errors as plain types. It does no I/O, starts no goroutine and imports only the standard library, so that every
// other package may point at it.
package cluster
