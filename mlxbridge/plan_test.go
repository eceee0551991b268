package mlxbridge

import (
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	eightB := cluster.Model{WeightBytes: 4_500 * mib, KVBytesPerToken: 144 << 10, Context: 40960, Quantization: "4-bit"}
	short := eightB
	short.Context = 1024
	half := eightB
	half.Quantization = "bf16"
	for _, c := range []struct {
		name          string
		model         cluster.Model
		rows          int
		cpu           bool
		least, wanted int64
	}{
		// 4500 weights + 512 + 562.5 scratch = 5574.5 MiB; 4096 tokens are 576 MiB, 32 × 1024 are 4608 MiB, and half again.
		{"many rows", eightB, 32, false, 6150*mib + mib/2, (5574*mib + mib/2 + 6912*mib) + gib},
		// one row of 16,384 tokens: 2304 MiB, and half again; an eighth of the whole is 1128.8 MiB, more than a GiB.
		{"one row", eightB, 1, false, 6150*mib + mib/2, (5574*mib + mib/2 + 3456*mib) + gib},
		// 1024 tokens are 144 MiB; an eighth of 5790.5 MiB for prefixes.
		{"short context", short, 1, false, 5718*mib + mib/2, (5790*mib + mib/2) * 9 / 8},
		// On a CPU 16-bit weights take twice their bytes: 9000 + 512 + 1024 = 10536 MiB.
		{"16 bit on a CPU", half, 1, true, 11112 * mib, 10536*mib + 3456*mib + gib},
		{"16 bit on a GPU", half, 1, false, 6150*mib + mib/2, (5574*mib + mib/2 + 3456*mib) + gib},
	} {
		got := planOn(c.model, c.rows, c.cpu)
		if got.least != c.least || got.wanted != c.wanted {
			t.Errorf("%s: got %d and %d MiB, want %d and %d MiB",
				c.name, got.least/mib, got.wanted/mib, c.least/mib, c.wanted/mib)
		}
		for free, want := range map[int64]int64{c.least: c.least, c.wanted + gib: c.wanted, (c.least + c.wanted) / 2: (c.least + c.wanted) / 2} {
			if claim := got.claim(free); claim != want {
				t.Errorf("%s: of %d MiB it claims %d MiB", c.name, free/mib, claim/mib)
			}
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
