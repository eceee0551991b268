package cluster

import "math"

// Curve is how fast a replica computes. Do not change one that others can see.
type Curve struct {
	// Decode holds pairs of rows and the milliseconds of a step in which so many rows get a token each, by rows.
	Decode [][2]float64 `json:"decode"`
	// Prefill holds pairs of tokens and the prompt tokens a second at which a prompt of that length is computed when
	// nothing runs beside it, by tokens.
	Prefill [][2]float64 `json:"prefill"`
	// Measured is false for what the machine's chip makes one expect.
	Measured bool `json:"measured"`
}

// StepMS is how long a step of so many rows takes, in milliseconds: between two points on the straight line through
// them, before the first as long as that, and beyond the last on the line through the last two, but never less than the
// last. From a single point on it grows with the rows, which is the worst that can be: a batch is never slower than its
// rows one after the other. It is 0 where nothing is known.
func (c *Curve) StepMS(rows int) float64 {
	if c == nil || len(c.Decode) == 0 {
		return 0
	}
	at, last := float64(rows), c.Decode[len(c.Decode)-1]
	if at <= last[0] {
		return between(c.Decode, at)
	}
	if len(c.Decode) == 1 {
		return last[1] * at / last[0]
	}
	before := c.Decode[len(c.Decode)-2]
	return max(last[1], last[1]+(last[1]-before[1])*(at-last[0])/(last[0]-before[0]))
}

// PrefillRate is at how many tokens a second a prompt of so many tokens is computed: between two points on the straight
// line through them, and beyond both ends as at the end. It is 0 where nothing is known.
func (c *Curve) PrefillRate(tokens int) float64 {
	if c == nil || len(c.Prefill) == 0 {
		return 0
	}
	return between(c.Prefill, float64(tokens))
}

// between is the value of a line at a place; outside of it, that of its end.
func between(line [][2]float64, at float64) float64 {
	if at <= line[0][0] {
		return line[0][1]
	}
	for i := 1; i < len(line); i++ {
		low, high := line[i-1], line[i]
		if at <= high[0] {
			return low[1] + (high[1]-low[1])*(at-low[0])/(high[0]-low[0])
		}
	}
	return line[len(line)-1][1]
}

// mostPoints bounds a line that another process sends.
const mostPoints = 256

// Valid says whether both lines are in order and hold nothing but positive numbers.
func (c *Curve) Valid() bool { return validLine(c.Decode) && validLine(c.Prefill) }

func validLine(line [][2]float64) bool {
	if len(line) > mostPoints {
		return false
	}
	before := 0.0
	for _, p := range line {
		if !(p[0] >= 1 && p[0] > before) || !(p[1] > 0) || math.IsInf(p[0], 1) || math.IsInf(p[1], 1) {
			return false
		}
		before = p[0]
	}
	return true
}
