package mlxbridge

import (
	"slices"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// eightB is a model of eight billion parameters in 4 bits; its config gives the numbers.
func eightB() cluster.Model {
	return cluster.Model{
		WeightBytes: 4_500 * mib, KVBytesPerToken: 144 << 10, Context: 40960,
		Shape: cluster.Shape{Hidden: 4096, Vocabulary: 151_936, HalfBytes: 500 * mib},
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	short, unknown, windowed, extra := eightB(), eightB(), eightB(), eightB()
	short.Context = 1024
	unknown.Shape = cluster.Shape{}
	windowed.Shape.WindowBytesPerToken, windowed.Shape.Window, windowed.Shape.StateBytes = 108<<10, 1024, 7*mib
	extra.Shape.ExtraBytes = 300 * mib
	// A chunk of 2,048 tokens leaves 2048 × (151936 × 4 + 12 × 4096 × 2) bytes, 1187 + 192 MiB.
	const scratch = 512*mib + 1187*mib + 192*mib
	// On a CPU a chunk has 256 tokens, its numbers 4 bytes: 148.375 + 48 MiB.
	const scratchCPU = 512*mib + 148*mib + 3*mib/8 + 48*mib
	for _, c := range []struct {
		name                         string
		model                        cluster.Model
		options                      ModelOptions
		rows                         int
		known                        measured
		cpu                          bool
		weights, scratch, kv, wanted int64 // wanted without stored prefixes
	}{
		{
			name: "many rows", model: eightB(), rows: 32,
			weights: 4500 * mib, scratch: scratch, kv: 576 * mib, wanted: 2 * 32 * 144 * mib,
		},
		{
			name: "one row is 16,384 tokens long", model: eightB(), rows: 1,
			weights: 4500 * mib, scratch: scratch, kv: 576 * mib, wanted: 2 * 2304 * mib,
		},
		{
			name: "short context", model: short, rows: 1,
			weights: 4500 * mib, scratch: scratch, kv: 144 * mib, wanted: 2 * 144 * mib,
		},
		{
			name: "context made shorter", model: eightB(), options: ModelOptions{Context: 1024}, rows: 1,
			weights: 4500 * mib, scratch: scratch, kv: 144 * mib, wanted: 2 * 144 * mib,
		},
		{
			name: "on a CPU", model: eightB(), rows: 32, cpu: true,
			weights: 5000 * mib, scratch: scratchCPU, kv: 576 * mib, wanted: 2 * 32 * 144 * mib,
		},
		{
			name: "unknown shape", model: unknown, rows: 1,
			weights: 4500 * mib, scratch: 512*mib + 562*mib + mib/2, kv: 576 * mib, wanted: 2 * 2304 * mib,
		},
		{ // a quarter of the layers sees everything, the others 1,024 tokens
			name: "windows", model: windowed, rows: 1,
			weights: 4500 * mib, scratch: scratch, kv: (144 + 108 + 7) * mib, wanted: 2 * (576 + 108 + 7) * mib,
		},
		{
			name: "adapter and draft", model: extra, rows: 1,
			weights: 4800 * mib, scratch: scratch, kv: 576 * mib, wanted: 2 * 2304 * mib,
		},
		{ // half of what was planned, in all layers alike
			name: "measured", model: windowed, rows: 1, known: measured{weights: 5100 * mib, kvPerToken: 72 << 10},
			weights: 5100 * mib, scratch: scratch, kv: (72 + 54 + 7) * mib, wanted: 2 * (288 + 54 + 7) * mib,
		},
	} {
		got := planOn(c.model, c.options, c.rows, c.known, c.cpu)
		if got.weights != c.weights || got.scratch != c.scratch {
			t.Errorf("%s: %d MiB weights and %d MiB scratch, want %d and %d",
				c.name, got.weights/mib, got.scratch/mib, c.weights/mib, c.scratch/mib)
		}
		least, wanted := c.weights+c.scratch+c.kv, c.weights+c.scratch+c.wanted
		wanted = max(least, wanted+min(gib, wanted/8))
		if got.least != least || got.wanted != wanted {
			t.Errorf("%s: got %d and %d MiB, want %d and %d MiB",
				c.name, got.least/mib, got.wanted/mib, least/mib, wanted/mib)
		}
		for free, want := range map[int64]int64{least: least, wanted + gib: wanted, (least + wanted) / 2: (least + wanted) / 2} {
			if claim := got.claim(free); claim != want {
				t.Errorf("%s: of %d MiB it claims %d MiB", c.name, free/mib, claim/mib)
			}
		}
	}
}

func TestPlanKeepsToTheOptions(t *testing.T) {
	t.Parallel()
	plain := planOn(eightB(), ModelOptions{}, 1, measured{}, false)
	without := plain.wanted - gib // prefixes
	for _, c := range []struct {
		name    string
		options ModelOptions
		wanted  int64
	}{
		{"prefix bytes", ModelOptions{PrefixBytes: 3 * gib}, without + 3*gib},
		{"a fifth for prefixes", ModelOptions{PrefixShare: 20}, without * 5 / 4},
		{"less than it could use", ModelOptions{MemoryBytes: 8 * gib}, 8 * gib},
		{"less than it needs", ModelOptions{MemoryBytes: gib}, plain.least},
	} {
		if got := planOn(eightB(), c.options, 1, measured{}, false); got.wanted != c.wanted || got.least != plain.least {
			t.Errorf("%s: wants %d MiB, not %d", c.name, got.wanted/mib, c.wanted/mib)
		}
	}
	if got, want := plain.String(), "6.8 GiB (4.4 GiB weights, 1.8 GiB scratch, 0.6 GiB keys and values of 4096 tokens)"; got != want {
		t.Errorf("it says %q", got)
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	p := planOn(eightB(), ModelOptions{}, 32, measured{}, false)
	each := int64(2 * 144 * mib) // 1,024 tokens, with the copy that a join makes
	slow := []stepTime{{1, 40}, {4, 60}, {8, 100}}
	for _, c := range []struct {
		name   string
		claim  int64
		curve  []stepTime
		want   int
		target time.Duration
		slots  int
	}{
		{"no bound", 0, nil, 32, 200, 32},
		{"memory for five", p.base() + 5*each + each/2, nil, 32, 200, 5},
		{"memory for all", p.base() + 100*each, nil, 32, 200, 32},
		{"always one", p.least, nil, 32, 200, 2},
		{"even with nothing", 1, nil, 32, 200, 1},
		{"between two points", 0, slow, 32, 80, 6},
		{"at a point", 0, slow, 32, 100, 8},
		{"beyond the last", 0, slow, 32, 200, 18}, // 10 ms a row
		{"far beyond, but not wanted", 0, slow, 10, 200, 10},
		{"too slow with one", 0, slow, 32, 20, 1},
		{"one point within", 0, slow[:1], 32, 50, 32},
		{"flat", 0, []stepTime{{1, 40}, {8, 40}}, 32, 200, 32},
		{"memory and time", p.base() + 3*each, slow, 32, 80, 3},
	} {
		if got := slots(p, c.claim, c.curve, c.want, c.target*time.Millisecond); got != c.slots {
			t.Errorf("%s: %d slots, want %d", c.name, got, c.slots)
		}
	}
}

// A step of a busy moment bounds nothing for ever: no step of as many rows would come that could correct it.
func TestPointsThatCannotBeAreNotBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		decode [][2]float64
		slots  int
	}{
		"a slow step, then quick ones with fewer rows": {[][2]float64{{1, 5}, {3, 10}, {4, 210}}, 4},
		"twice a row's share":                          {[][2]float64{{2, 60}, {4, 230}}, 3},
		"no fewer rows were seen":                      {[][2]float64{{4, 210}}, 3},
		"one after the other":                          {[][2]float64{{1, 10}, {2, 900}, {4, 900}}, 4},
	} {
		p := planOn(eightB(), ModelOptions{}, 4, measured{}, false)
		curve := &cluster.Curve{Decode: c.decode}
		before := slices.Clone(c.decode)
		if got := slots(p, 0, stepTimes(curve), 4, stepTarget); got != c.slots {
			t.Errorf("%s: %d slots, want %d", name, got, c.slots)
		}
		if !slices.Equal(before, curve.Decode) {
			t.Errorf("%s: the curve itself was changed", name)
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	var r rate
	if got := r.perSecond(time.Hour); got != 0 {
		t.Errorf("nothing yet, and %v", got)
	}
	now := time.Hour
	for range 300 { // 50 tokens a second
		now += 20 * time.Millisecond
		r.add(now, 1)
	}
	if got := r.perSecond(now); got < 45 || got > 50 {
		t.Errorf("50 a second make %v", got)
	}
	if got := r.perSecond(now + 500*time.Millisecond); got < 20 || got > 30 {
		t.Errorf("half a second later: %v", got)
	}
	if got := r.perSecond(now + 1100*time.Millisecond); got != 0 {
		t.Errorf("when the second is over: %v", got)
	}
}
