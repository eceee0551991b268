// Package enrol lets a node join a cluster with a token instead of SSH: over HTTPS, where the node believes the
// certificate authority that the token names and nobody else, and both sides prove that they know the token's secret
// without sending it.
package enrol
