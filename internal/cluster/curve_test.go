package cluster_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestStepMS(t *testing.T) {
	t.Parallel()
	several := &cluster.Curve{Decode: [][2]float64{{1, 20}, {4, 26}, {8, 40}}}
	falling := &cluster.Curve{Decode: [][2]float64{{1, 20}, {2, 19}}}
	single := &cluster.Curve{Decode: [][2]float64{{2, 20}}}
	for _, c := range []struct {
		name  string
		curve *cluster.Curve
		rows  int
		want  float64
	}{
		{"at a point", several, 4, 26},
		{"a third of the way", several, 2, 22},
		{"half way", several, 6, 33},
		{"before the first", several, 0, 20},
		{"beyond the last, as steep as before", several, 16, 68},
		{"never below the last", falling, 8, 19},
		{"one point, in proportion", single, 6, 60},
		{"one point, before it", single, 1, 20},
		{"no point", &cluster.Curve{}, 4, 0},
		{"no curve", nil, 4, 0},
	} {
		if got := c.curve.StepMS(c.rows); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %d rows take %v ms, want %v", c.name, c.rows, got, c.want)
		}
	}
}

func TestPrefillRate(t *testing.T) {
	t.Parallel()
	curve := &cluster.Curve{Prefill: [][2]float64{{256, 1000}, {1024, 800}, {2048, 500}}}
	for _, c := range []struct {
		name   string
		curve  *cluster.Curve
		tokens int
		want   float64
	}{
		{"at a point", curve, 1024, 800},
		{"half way", curve, 640, 900},
		{"a quarter of the way", curve, 1280, 725},
		{"shorter than all", curve, 10, 1000},
		{"longer than all", curve, 100_000, 500},
		{"no point", &cluster.Curve{}, 10, 0},
		{"no curve", nil, 10, 0},
	} {
		if got := c.curve.PrefillRate(c.tokens); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %d tokens at %v a second, want %v", c.name, c.tokens, got, c.want)
		}
	}
}

func TestCurveIsValid(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`{"decode":[[1,20.5],[2,21]],"prefill":[[64,900]],"measured":true}`: true,
		`{"decode":[],"prefill":[],"measured":false}`:                       true,
		`{"decode":[[2,20],[1,21]],"prefill":[]}`:                           false,
		`{"decode":[[1,20],[1,21]],"prefill":[]}`:                           false,
		`{"decode":[[1,-20]],"prefill":[]}`:                                 false,
		`{"decode":[[1]],"prefill":[]}`:                                     false,
		`{"decode":[],"prefill":[[0,5]]}`:                                   false,
	} {
		var c cluster.Curve
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if c.Valid() != want {
			t.Errorf("%s is valid: %t, want %t", text, !want, want)
		}
	}
	if c := (cluster.Curve{Decode: [][2]float64{{1, math.Inf(1)}}}); c.Valid() {
		t.Error("an endless step is valid")
	}
	if c := (cluster.Curve{Decode: [][2]float64{{0.5, 20}, {1, 20}}}); c.Valid() {
		t.Error("less than a row is valid")
	}
	if c := (cluster.Curve{Decode: [][2]float64{{1, math.NaN()}}}); c.Valid() {
		t.Error("a step of no number is valid")
	}
}
