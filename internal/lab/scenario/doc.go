// Package scenario holds tests of the real mlxctl in a network of hosts: what an operator types, and what comes of it.
package scenario
