package chart

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSparkline(t *testing.T) {
	t.Parallel()
	gap := math.NaN()
	tests := []struct {
		name    string
		samples []float64
		width   int
		symbols Symbols
		want    string
	}{
		{"block ramp", []float64{0, 1, 2, 3, 4, 5, 6, 7}, 8, Block, "▁▂▃▄▅▆▇█"},
		{"ascii ramp", []float64{0, 2, 3, 4, 5, 6, 7}, 7, ASCII, "_.:-=*#"},
		{"braille pairs", []float64{0, 7, 7, 0}, 2, Braille, "⣸⣇"},
		{"newest at the right", []float64{7, 0, 0}, 5, Block, "  █▁▁"},
		{"oldest fall off", []float64{7, 7, 0, 0}, 2, Block, "▁▁"},
		{"a gap is empty", []float64{7, gap, 7}, 3, Block, "█ █"},
		{"above the top is clipped", []float64{700}, 1, Block, "█"},
		{"below zero is the base line", []float64{-3}, 1, Block, "▁"},
		{"no samples", nil, 3, Braille, "   "},
		{"no width", []float64{1}, 0, Braille, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := Sparkline(tt.samples, tt.width, 7, tt.symbols); got != tt.want {
				t.Errorf("Sparkline = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAreaFillsFromBelow(t *testing.T) {
	t.Parallel()
	got := strings.Join(Area([]float64{0, 8, 16}, 3, 2, 16, Block), "\n")
	if want := "  █\n▁██"; got != want {
		t.Errorf("Area =\n%s\nwant\n%s", got, want)
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	tests := []struct {
		fraction float64
		symbols  Symbols
		want     string
	}{
		{0, Block, "────"},
		{0.001, Block, "╸───"},
		{0.5, Block, "━━──"},
		{0.999, Block, "━━━╸"},
		{1, Block, "━━━━"},
		{9, Braille, "━━━━"},
		{-1, Braille, "────"},
		{math.NaN(), Braille, "────"},
		{0.001, ASCII, "#---"},
		{0.999, ASCII, "###-"},
		{1, ASCII, "####"},
	}
	for _, tt := range tests {
		filled, rest := Bar(tt.fraction, 4, tt.symbols)
		if got := filled + rest; got != tt.want {
			t.Errorf("Bar(%v, %v) = %q, want %q", tt.fraction, tt.symbols, got, tt.want)
		}
	}
}

func TestNice(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]float64{-1: 1, 0: 1, 0.3: 0.3, 1: 1, 1.01: 1.5, 4: 4, 5.1: 6, 8.1: 10, 99: 100, 1234: 1500} {
		if got := Nice(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("Nice(%v) = %v, want %v", v, got, want)
		}
	}
	if got := Nice(math.Inf(1)); got != 1 {
		t.Errorf("Nice(+Inf) = %v, want 1", got)
	}
}

func TestRescaleHasHysteresis(t *testing.T) {
	t.Parallel()
	top := 0.0
	for i, step := range []struct{ peak, want float64 }{
		{48, 50}, {51, 60}, {49, 60}, {51, 60}, {31, 60}, {29, 30}, {31, 40}, {29, 40}, {0, 1},
	} {
		if top = Rescale(top, step.peak); top != step.want {
			t.Fatalf("step %d: scale = %v after peak %v, want %v", i, top, step.peak, step.want)
		}
	}
}

func TestEveryDrawingIsExactlyAsWideAsAsked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		samples := rapid.SliceOfN(rapid.Float64(), 0, 80).Draw(t, "samples")
		width, height := rapid.IntRange(0, 40).Draw(t, "width"), rapid.IntRange(0, 6).Draw(t, "height")
		symbols := rapid.SampledFrom([]Symbols{Braille, Block, ASCII}).Draw(t, "symbols")
		top := Rescale(rapid.Float64().Draw(t, "top"), Peak(samples))
		rows := Area(samples, width, height, top, symbols)
		if width > 0 && len(rows) != height {
			t.Fatalf("Area has %d rows, want %d", len(rows), height)
		}
		filled, rest := Bar(rapid.Float64().Draw(t, "fraction"), width, symbols)
		for _, row := range append(rows, filled+rest) {
			if n := utf8.RuneCountInString(row); n != width {
				t.Fatalf("row %q has %d columns, want %d", row, n, width)
			}
		}
	})
}

func BenchmarkSparkline(b *testing.B) {
	samples := make([]float64, 512)
	for i := range samples {
		samples[i] = float64(i % 97)
	}
	for b.Loop() {
		Sparkline(samples, 40, 100, Braille)
	}
}
