// Package arch holds the shape of the tree: which package may import which, and that each says what its job is. It has
// tests only; the linter holds the same arrows while code is written.
package arch
