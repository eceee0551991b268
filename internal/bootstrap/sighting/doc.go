// Package sighting says which hosts there are. One machine is told of by several: the operator, the settings, the list of
// nodes, the controller, Bonjour, and the host itself over SSH. Here, and nowhere else, is decided which of these sightings
// are one host and what is true of it then. Names and addresses can be forged and move from one machine to another, so that
// a host key counts for more than either, and the number of the machine for more than a key.
package sighting
