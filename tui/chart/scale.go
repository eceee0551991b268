package chart

import "math"

// lowTide is the part of a scale below which it shrinks. It is under the ratio of any two steps, so that a value at a
// border does not make the scale jump to and fro.
const lowTide = 0.5

// Nice returns the smallest of 1, 1.5, 2, 3, 4, 5, 6 and 8 times a power of ten that is at least v, and 1 for what is not above zero.
func Nice(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 1) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range [...]float64{1, 1.5, 2, 3, 4, 5, 6, 8} {
		if step*power >= v {
			return step * power
		}
	}
	return 10 * power
}

// Rescale returns the scale for a chart whose highest sample is peak and whose scale was top: it grows at once, and
// shrinks only when the peak has fallen well below it. top 0 means that there was none.
func Rescale(top, peak float64) float64 {
	if peak > top || !(top > 0) || peak < lowTide*top {
		return Nice(peak)
	}
	return top
}

// Peak returns the highest sample, 0 where there is none.
func Peak(samples []float64) float64 {
	peak := 0.0
	for _, v := range samples {
		if v > peak {
			peak = v
		}
	}
	return peak
}
