// Package bonjour finds Macs on the local network, and controllers of clusters, by multicast DNS; and it makes this
// controller findable. What it returns are hints of whoever answered: names are safe to show, nothing is proven.
package bonjour
