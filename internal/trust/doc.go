// Package trust is the identity of a cluster on disk: who signs whom, who may say what, and who was thrown out. It
// holds the keys of the NATS operator and accounts, a certificate authority for TLS, and the key of the HTTP API.
package trust
