package chart

import (
	"math"
	"strings"
)

// Sparkline draws the newest samples, the last one at the right edge, on one row of width columns. top is the value of
// the full height. NaN is a gap and stays empty; zero draws the base line, so that silence and no data differ.
func Sparkline(samples []float64, width int, top float64, s Symbols) string {
	if width <= 0 {
		return ""
	}
	return Area(samples, width, 1, top, s)[0]
}

// Area draws the newest samples as a filled chart of height rows, topmost first. It follows Sparkline's rules; the base
// line is in the last row.
func Area(samples []float64, width, height int, top float64, s Symbols) []string {
	if width <= 0 || height <= 0 {
		return nil
	}
	levels := newest(samples, s.Samples(width), height*s.levels(), top)
	rows := make([]string, height)
	var b strings.Builder
	for row := range rows {
		b.Reset()
		floor := (height - 1 - row) * s.levels()
		for col := range width {
			b.WriteRune(cell(levels, col, floor, s))
		}
		rows[row] = b.String()
	}
	return rows
}

// cell draws column col of the row whose lowest level is floor.
func cell(levels []int, col, floor int, s Symbols) rune {
	in := func(i int) int { return min(max(levels[i]-floor, 0), s.levels()) }
	switch s {
	case Braille:
		left, right := in(2*col), in(2*col+1)
		if left == 0 && right == 0 {
			return ' '
		}
		return dots(left, right)
	case Block:
		return block(in(col))
	default:
		return density(in(col))
	}
}

// newest turns the last n samples into levels from 0 (a gap) over 1 (zero) to most; missing ones are gaps.
func newest(samples []float64, n, most int, top float64) []int {
	levels := make([]int, n)
	samples = samples[max(len(samples)-n, 0):]
	shift := n - len(samples)
	for i, v := range samples {
		levels[shift+i] = level(v, most, top)
	}
	return levels
}

func level(v float64, most int, top float64) int {
	switch {
	case math.IsNaN(v):
		return 0
	case v <= 0 || !(top > 0):
		return 1
	case v >= top:
		return most
	}
	return min(max(int(math.Ceil(v/top*float64(most))), 2), most)
}
