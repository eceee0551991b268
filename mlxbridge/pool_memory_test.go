package mlxbridge_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// elastic is a model that needs little more than 3 GiB and can make use of 8.
func elastic(name string) cluster.Model {
	m := model(name, 4*gib)
	m.KVBytesPerToken = 64 << 10 // 32 rows of 1,024 tokens, twice, are 4 GiB
	return m
}

// engineOf is the living engine of a model.
func (b *bench) engineOf(tb testing.TB, name string) *enginetest.Engine {
	tb.Helper()
	for _, e := range b.fake.Engines() {
		if e.Spec().Model.Name == name {
			return e
		}
	}
	tb.Fatalf("no engine of %s", name)
	return nil
}

func (b *bench) toldThat(words ...string) int {
	n := 0
	for _, e := range b.told() {
		all := true
		for _, w := range words {
			all = all && strings.Contains(e, w)
		}
		if all {
			n++
		}
	}
	return n
}

func TestPoolTakesBackBeforeItEvicts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const budget = 10 * gib
		b := newBench(t, enginetest.Script{TokensPerSecond: 10}, mlxbridge.PoolOptions{BudgetBytes: budget})
		b.mustLoad(t, elastic("a"), false)
		whole := b.replica(t, "a").PlannedBytes
		if whole < 7*gib {
			t.Fatalf("alone it claims %d bytes", whole)
		}
		b.engineOf(t, "a").Store(5 * gib)
		b.mustLoad(t, elastic("b"), false)
		a := b.engineOf(t, "a")
		if got := b.loaded(); got != "a b" || b.PlannedBytes() > budget {
			t.Errorf("loaded: %s, with %d bytes planned", got, b.PlannedBytes())
		}
		claim := b.replica(t, "a").PlannedBytes
		if claim >= whole || a.Told().MemoryBytes != claim {
			t.Errorf("it claims %d bytes of %d and was told %d", claim, whole, a.Told().MemoryBytes)
		}
		if s := a.Stats(); s.ActiveBytes > claim || s.PrefixBytes >= 5*gib {
			t.Errorf("it uses %d bytes of %d, %d for prefixes", s.ActiveBytes, claim, s.PrefixBytes)
		}
		mustCode(t, b.Unload(t.Context(), "b", false), "")
		pass(2 * time.Second)
		if got := b.replica(t, "a").PlannedBytes; got != whole || a.Told().MemoryBytes != whole {
			t.Errorf("alone again it claims %d bytes and was told %d, of %d", got, a.Told().MemoryBytes, whole)
		}
	})
}

func TestPoolTakesFromIdleOnesFirstAndNeverWhatIsInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const budget = 20 * gib
		b := newBench(t, enginetest.Script{TokensPerSecond: 1}, mlxbridge.PoolOptions{BudgetBytes: budget})
		var asking sync.WaitGroup
		asking.Go(func() { b.mustAsk(t, elastic("busy"), 60) })
		synctest.Wait()
		b.mustLoad(t, elastic("idle"), false)
		before := b.replica(t, "busy").PlannedBytes
		b.mustLoad(t, elastic("third"), false) // what idle has beyond its least is enough
		if got := b.replica(t, "busy").PlannedBytes; got != before {
			t.Errorf("the busy one gave: %d of %d bytes", got, before)
		}
		b.engineOf(t, "busy").Use(8 * gib)
		// Now it uses more than it claims, and all others are pinned or at their least.
		b.mustLoad(t, elastic("idle"), true)
		b.mustLoad(t, elastic("third"), true)
		b.mustLoad(t, elastic("fourth"), true)
		err := b.Load(t.Context(), model("big", 8*gib), "", false)
		mustCode(t, err, cluster.CodeBusy)
		if got := b.replica(t, "busy").PlannedBytes; got < 7*gib {
			t.Errorf("it was taken what it uses: %d bytes are left", got)
		}
		asking.Wait()
	})
}

func TestPoolEvictsWhoDoesNotGiveInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{IsDeaf: true}, mlxbridge.PoolOptions{BudgetBytes: 10 * gib})
		b.mustLoad(t, elastic("a"), true)
		began := time.Now()
		mustCode(t, b.Load(t.Context(), elastic("b"), "", false), cluster.CodeBusy)
		if got := time.Since(began); got != 5*time.Second {
			t.Errorf("it was waited for %s", got)
		}
		if got := b.replica(t, "a").PlannedBytes; got < 7*gib {
			t.Errorf("it gave nothing, and its claim is %d bytes", got)
		}
		b.mustLoad(t, elastic("a"), false)
		b.mustLoad(t, elastic("b"), false)
		if got := b.loaded(); got != "b" {
			t.Errorf("loaded: %s", got)
		}
	})
}

func TestPoolUnderPressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10}, mlxbridge.PoolOptions{BudgetBytes: 20 * gib})
		m := elastic("m")
		var asking sync.WaitGroup
		asking.Go(func() { b.mustAsk(t, m, 50) })
		pass(time.Second)
		e := b.engineOf(t, "m")
		e.Store(gib)
		for _, c := range []struct{ level, told int }{{2, 2}, {3, 2}, {4, 4}, {9, 4}} {
			b.SetPressure(c.level)
			if got := e.Told().Pressure; got != c.told {
				t.Errorf("at level %d it was told %d", c.level, got)
			}
		}
		if got := e.Stats().PrefixBytes; got != 0 {
			t.Errorf("%d bytes of prefixes are left", got)
		}
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeBusy)
		mustCode(t, b.Load(t.Context(), elastic("other"), "", false), cluster.CodeBusy)
		b.mustLoad(t, m, false) // it is there
		asking.Wait()           // who runs goes on
		b.SetPressure(2)
		b.mustLoad(t, elastic("other"), false)
		if got := b.engineOf(t, "other").Told().Pressure; got != 2 {
			t.Errorf("loaded under pressure, it was told %d", got)
		}
		b.SetPressure(0) // which no system says
		if got := e.Told().Pressure; got != 1 {
			t.Errorf("afterwards it was told %d", got)
		}
		b.mustAsk(t, m, 1)
	})
}

func TestPoolTellsWhoUsesMoreThanItsClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{BudgetBytes: 10 * gib})
		b.mustLoad(t, elastic("m"), false)
		e := b.engineOf(t, "m")
		e.Use(7 * gib)
		pass(1500 * time.Millisecond)
		e.Store(gib)
		pass(5 * time.Second)
		if got := e.Stats().PrefixBytes; got != 0 {
			t.Errorf("it was not told: it keeps %d bytes of prefixes", got)
		}
		if n := b.toldThat("m its worker uses", "more than the"); n != 1 {
			t.Errorf("it was said %d times: %q", n, b.told())
		}
		e.Use(-7 * gib)
		pass(2 * time.Second)
		e.Use(7 * gib)
		pass(2 * time.Second)
		if n := b.toldThat("m its worker uses"); n != 2 {
			t.Errorf("it happened twice, and was said %d times", n)
		}
	})
}

func TestPoolPlansAnewWithWhatWasMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{WeightBytes: gib}, mlxbridge.PoolOptions{BudgetBytes: 20 * gib})
		m := model("m", 4*gib)
		b.mustLoad(t, m, false)
		if got := b.replica(t, "m").PlannedBytes; got > 2*gib || b.engineOf(t, "m").Told().MemoryBytes != got {
			t.Errorf("it is a third as large as planned, and claims %d bytes", got)
		}
		mustCode(t, b.Unload(t.Context(), "m", false), "")
		b.fake.SetScript(enginetest.Script{WeightBytes: 6 * gib})
		b.mustLoad(t, m, false)
		if got := b.replica(t, "m").PlannedBytes; got < 6*gib || b.engineOf(t, "m").Told().MemoryBytes != got {
			t.Errorf("it is twice as large as planned, and claims %d bytes", got)
		}
		if b.toldThat("m it needs", "more than was planned") != 1 {
			t.Errorf("nobody was told: %q", b.told())
		}
		b.fake.SetScript(enginetest.Script{WeightBytes: 60 * gib})
		b.mustLoad(t, model("n", 4*gib), false)
		if got := b.PlannedBytes(); got > 20*gib {
			t.Errorf("%d bytes are planned", got)
		}
	})
}

func TestPoolRunsFewerRowsAfterMemoryRanOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{Options: mlxbridge.ModelOptions{MaxRows: 8}})
		m := model("m", gib)
		b.mustLoad(t, m, true)
		for _, want := range []int{4, 2, 1, 1} {
			b.engineOf(t, "m").Exhaust()
			synctest.Wait()
			pass(5 * time.Second)
			if got := b.engineOf(t, "m").Spec().MaxRows; got != want || b.replica(t, "m").Slots != want {
				t.Errorf("it came back with %d rows and %d slots, want %d", got, b.replica(t, "m").Slots, want)
			}
			pass(5 * time.Minute) // else it is quarantined
		}
		if n := b.toldThat("m it ran out of memory"); n != 4 {
			t.Errorf("told %q", b.told())
		}
		b.engineOf(t, "m").Crash()
		synctest.Wait()
		pass(time.Second)
		mustCode(t, b.Unload(t.Context(), "m", true), "")
		b.mustLoad(t, m, true)
		if got := b.replica(t, "m").Slots; got != 8 {
			t.Errorf("loaded anew it has %d slots", got)
		}
	})
}

func TestPoolSlotsFollowMemoryAndSpeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		script := enginetest.Script{Curve: &cluster.Curve{Decode: [][2]float64{{1, 50}, {4, 125}}}}
		b := newBench(t, script, mlxbridge.PoolOptions{BudgetBytes: 30 * gib})
		b.mustLoad(t, elastic("m"), false)
		if got := b.replica(t, "m").Slots; got != 7 || b.engineOf(t, "m").Told().MaxRows != 7 { // 25 ms a row
			t.Errorf("%d slots, and it was told %d", got, b.engineOf(t, "m").Told().MaxRows)
		}
		b.fake.SetScript(enginetest.Script{})
		tight := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{BudgetBytes: 4 * gib})
		tight.mustLoad(t, elastic("m"), false)
		r := tight.replica(t, "m")
		if r.Slots < 2 || r.Slots > 12 || tight.engineOf(t, "m").Told().MaxRows != r.Slots {
			t.Errorf("%d slots in %d bytes", r.Slots, r.PlannedBytes)
		}
	})
}

// Many loads, requests and unloads at once: claims stay within the budget, nobody who is busy or pinned is evicted, and
// nothing is left over.
func TestPoolHoldsItsPromisesWhateverComes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			const budget = 14 * gib
			script := enginetest.Script{TokensPerSecond: 20, LoadFor: 200 * time.Millisecond, IsDeaf: seed == 5}
			b := newBench(t, script, mlxbridge.PoolOptions{
				BudgetBytes: budget, Options: mlxbridge.ModelOptions{IdleTTL: 20 * time.Second},
			})
			b.mustLoad(t, elastic("pinned"), true)
			pinned := b.engineOf(t, "pinned")
			var asking sync.WaitGroup
			var answered [4]int
			for i := range answered {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				asking.Go(func() {
					for range 40 {
						m := elastic(fmt.Sprint("m", r.IntN(5)))
						switch r.IntN(6) {
						case 0:
							_ = b.Load(t.Context(), m, "", false)
						case 1:
							_ = b.Unload(t.Context(), m.Name, false)
						case 2:
							b.SetPressure([]int{1, 1, 2, 4}[r.IntN(4)])
						default:
							a := b.ask(t.Context(), t, m, 1+r.IntN(20))
							if a.Err == nil {
								answered[i]++
							} else {
								mustCode(t, a.Err, cluster.CodeBusy) // evicted while it ran would be another one
							}
						}
						if got := b.PlannedBytes(); got > budget {
							t.Errorf("seed %d: %d bytes are planned", seed, got)
						}
						pass(time.Duration(r.IntN(3000)) * time.Millisecond)
					}
				})
			}
			asking.Wait()
			select {
			case <-pinned.Done():
				t.Errorf("seed %d: the pinned one is gone", seed)
			default:
			}
			if sum := answered[0] + answered[1] + answered[2] + answered[3]; sum < 30 {
				t.Errorf("seed %d: %d requests were answered", seed, sum)
			}
			b.SetPressure(1)
			pass(time.Minute) // the idle are unloaded, and the pinned one has all that it can use
			if got, claim := b.loaded(), b.PlannedBytes(); got != "pinned" || claim != b.replica(t, "pinned").PlannedBytes {
				t.Errorf("seed %d: left are %s with %d bytes", seed, got, claim)
			}
			if n := len(b.fake.Engines()); n != 1 {
				t.Errorf("seed %d: %d engines are left", seed, n)
			}
		})
	}
}
