package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// figure is one thing measured. Target is a bound, from above with AtMost; else from below, and zero is none.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Target float64 `json:"target,omitempty"`
	AtMost bool    `json:"at_most,omitempty"`
	BLAS   string  `json:"blas,omitempty"` // that multiplied; empty where nothing was
}

// verdict is ok or short; what has no target is always ok.
func (f figure) verdict() string {
	switch {
	case f.Target == 0 && !f.AtMost, !f.AtMost && f.Value >= f.Target, f.AtMost && f.Value <= f.Target:
		return "ok"
	default:
		return "short"
	}
}

func (f figure) target() string {
	switch {
	case f.Target == 0 && !f.AtMost:
		return "-"
	case f.AtMost:
		return fmt.Sprintf("<=%g", f.Target)
	default:
		return fmt.Sprintf(">=%g", f.Target)
	}
}

// report prints figures as they come and keeps them.
type report struct {
	out     io.Writer
	figures []figure
}

func (r *report) add(f figure) {
	r.figures = append(r.figures, f)
	_, _ = fmt.Fprintf(r.out, "%-36s %10.3f %-7s %-8s %-5s %s\n", f.Name, f.Value, f.Unit, f.target(), f.verdict(), cmp.Or(f.BLAS, "-"))
}

// write puts the figures into a file, with what they were measured on.
func (r *report) write(path string, on map[string]string) error {
	data, err := json.MarshalIndent(struct {
		On      map[string]string `json:"on"`
		Figures []figure          `json:"figures"`
	}{on, r.figures}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode figures: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil { //nolint:gosec // figures are for everybody
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}

// quantile returns the value below which a share q of the samples lies.
func quantile(samples []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median(samples []float64) float64 { return quantile(samples, 0.5) }
