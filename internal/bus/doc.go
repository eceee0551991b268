// Package bus carries every message of a cluster over NATS: it embeds the server, connects to it or to one elsewhere,
// and gives typed messages, requests with one reply, and streams that lose nothing without saying so. It is the only
// importer of nats.go and nats-server.
package bus
