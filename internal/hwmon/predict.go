package hwmon

import (
	"math"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// promptShare is the part of the 32-bit rate that long prompts get, of dense models and of those with experts.
	// It fits the measured M4 Pro and M4 Max within 3 %.
	promptShare, promptShareExperts = 0.72, 0.63
	// acceleratedShare is the same where matrix units compute: 26 of 10 on the M5 Pro.
	acceleratedShare = 2.6
	// typicalContext is what rows have read when a step is estimated, in tokens.
	typicalContext = 512
)

// Expect is how fast a model is expected to be on a machine, nil where the chip or the model is not known well enough.
// It is worth something until it was measured, and no longer.
//
// The formulas were fitted to public runs of mlx-lm (see chips) and are within 15 % of those of dense models, one row
// and short prompts; models with experts run up to 30 % slower than expected, for they do not wait for memory alone.
// How a step grows with its rows is the least that it can: what a row computes at the rate of a long prompt.
func Expect(hw cluster.Hardware, m cluster.Model) *cluster.Curve {
	chip, ok := LookUp(hw.Chip, hw.GPUCores)
	if !ok || hw.OS != "darwin" || m.WeightBytes <= 0 || m.Parameters <= 0 || m.Layers <= 0 {
		return nil
	}
	s := speed{chip: chip, model: m, accelerated: chip.HasAccelerator && atLeast(hw.OSVersion, 26, 2)}
	c := &cluster.Curve{}
	for rows := 1; rows <= 32; rows *= 2 {
		c.Decode = append(c.Decode, [2]float64{float64(rows), s.stepMS(rows, typicalContext)})
	}
	for _, tokens := range []float64{256, 2048, 16384} {
		c.Prefill = append(c.Prefill, [2]float64{tokens, s.promptRate(tokens)})
	}
	return c
}

// speed estimates one model on one chip.
type speed struct {
	chip        Chip
	model       cluster.Model
	accelerated bool
}

// stepMS is how long a step of some rows of a length takes: launching the layers, reading the weights that they use and
// their keys and values, and computing the rows beside the first.
func (s speed) stepMS(rows int, context float64) float64 {
	b := float64(rows)
	bytes := s.weightsRead(b) + b*context*float64(s.model.KVBytesPerToken)
	reading := bytes / (s.efficiency() * s.chip.BandwidthGBs * 1e9)
	computing := (b - 1) * 2 * s.active() / s.promptFLOPS()
	return 1e3 * (s.layerSeconds()*float64(s.model.Layers) + reading + computing)
}

// weightsRead is how much of the weights some rows use. Of a model with experts each row picks its own: what one leaves
// out is read when another picks it, so the part that nobody picks shrinks with every row.
func (s speed) weightsRead(rows float64) float64 {
	share := s.active() / float64(s.model.Parameters)
	return float64(s.model.WeightBytes) * (1 - math.Pow(1-share, rows))
}

func (s speed) active() float64 {
	if a := s.model.ActiveParameters; a > 0 && a < s.model.Parameters {
		return float64(a)
	}
	return float64(s.model.Parameters)
}

// promptRate is the tokens a second of a prompt. Attention makes long ones slower: by three tenths at 16,384 tokens and
// beyond, in proportion below.
func (s speed) promptRate(tokens float64) float64 {
	return s.promptFLOPS() / (2 * s.active()) * (1 - 0.3*min(tokens/16384, 1))
}

func (s speed) promptFLOPS() float64 {
	share := promptShare
	if s.active() < float64(s.model.Parameters) {
		share = promptShareExperts
	}
	switch {
	case s.chip.HasAccelerator && !s.accelerated:
		return 1e12 * share * s.chip.TFLOPS
	case s.chip.PrefillTFLOPS > 0:
		return 1e12 * s.chip.PrefillTFLOPS * share / promptShare
	case s.accelerated:
		return 1e12 * acceleratedShare * s.chip.TFLOPS * share / promptShare
	default:
		return 1e12 * share * s.chip.TFLOPS
	}
}

// efficiency is the part of the memory's bandwidth that decoding gets. That of the Ultra was measured on the M3; the M2's
// is joined of two chips in the same way.
func (s speed) efficiency() float64 {
	switch name := s.chip.Name; {
	case strings.HasPrefix(name, "Apple M1"):
		return 0.62
	case strings.HasSuffix(name, " Ultra"):
		return 0.78
	case strings.HasPrefix(name, "Apple M2"), strings.HasPrefix(name, "Apple M3"):
		return 0.85
	default:
		return 0.95
	}
}

// layerSeconds is what a layer takes however little there is to read.
func (s speed) layerSeconds() float64 {
	switch {
	case strings.HasSuffix(s.chip.Name, " Ultra"):
		return 80e-6
	case strings.HasSuffix(s.chip.Name, " Max"):
		return 70e-6
	default:
		return 50e-6
	}
}

// atLeast compares a version like 26.2.1. One that cannot be read is older than all.
func atLeast(version string, major, minor int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	b, err := strconv.Atoi(second)
	if err != nil {
		b = 0
	}
	return a > major || (a == major && b >= minor)
}
