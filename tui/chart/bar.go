package chart

import (
	"math"
	"strings"
)

// Bar draws a meter of width columns as its filled and its empty part, so that each can have its own colour. A fraction
// outside 0 to 1 is clipped, NaN is empty. More than nothing always shows, and less than all never looks full.
func Bar(fraction float64, width int, s Symbols) (filled, rest string) {
	if width <= 0 {
		return "", ""
	}
	if s == ASCII {
		n := steps(fraction, width)
		return strings.Repeat("#", n), strings.Repeat("-", width-n)
	}
	halves := steps(fraction, 2*width)
	filled = strings.Repeat("━", halves/2)
	if halves%2 == 1 {
		filled += "╸"
	}
	return filled, strings.Repeat("─", width-(halves+1)/2)
}

// steps rounds fraction to one of 0 to most; only exactly 0 gives 0, only 1 gives most.
func steps(fraction float64, most int) int {
	switch {
	case math.IsNaN(fraction) || fraction <= 0:
		return 0
	case fraction >= 1:
		return most
	case most == 1:
		return 1
	}
	return min(max(int(math.Round(fraction*float64(most))), 1), most-1)
}
