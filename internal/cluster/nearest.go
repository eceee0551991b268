package cluster

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// nearMost is how many names a hint offers.
const nearMost = 3

// Nearest picks the known names that somebody may have meant with name, nearest first and at most three: those that are
// a few letters from it, or that have it as a whole part.
func Nearest(name string, known []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	want := strings.ToLower(name)
	for _, k := range known {
		have := strings.ToLower(k)
		d := min(distance(want, have), distance(path.Base(want), path.Base(have)))
		if len(want) >= 3 && strings.Contains(have, want) {
			d = min(d, 1)
		}
		if d <= max(1, len(path.Base(want))/3) {
			found = append(found, candidate{k, d})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, c := range found[:min(len(found), nearMost)] {
		names = append(names, c.name)
	}
	return names
}

// distance counts the letters to change, add, drop or swap with the next to make one word of the other.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := last[j]
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
