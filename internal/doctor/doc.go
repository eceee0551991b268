// Package doctor looks for what keeps Macs from serving, changes nothing, and says of each thing how to mend it. Checks
// run at once and are told in the order that they were given in; one that fails, or hangs, hides no other.
package doctor
