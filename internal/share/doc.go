// Package share lets identical requests share one generation: those in flight at the same time, and those that come
// while a finished answer is kept. It decides what identical means, and moves chunks; how an answer is made it is told.
package share
