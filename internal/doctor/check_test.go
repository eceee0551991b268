package doctor_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func says(message string) func(context.Context) []plan.Finding {
	return func(context.Context) []plan.Finding { return []plan.Finding{{State: plan.FindingOK, Message: message}} }
}

func messages(results []doctor.Result) []string {
	var out []string
	for _, r := range results {
		for _, f := range r.Findings {
			out = append(out, f.Check+" "+string(f.State)+" "+f.Message)
		}
	}
	return out
}

func TestRunTellsInOrderWhateverHappens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		checks := []doctor.Check{
			{Name: "slow", Timeout: time.Minute, Run: func(context.Context) []plan.Finding {
				<-time.After(50 * time.Second)
				return says("late")(t.Context())
			}},
			{Name: "panics", Run: func(context.Context) []plan.Finding { panic("oh") }},
			{Name: "hangs", Timeout: time.Second, Run: func(context.Context) []plan.Finding {
				<-release
				return nil
			}},
			{Name: "heeds", Timeout: time.Second, Run: func(ctx context.Context) []plan.Finding {
				<-ctx.Done()
				return says("partly")(ctx)
			}},
			{Name: "none", Run: func(context.Context) []plan.Finding { return nil }},
			{Name: "fast", Run: says("quick")},
		}
		began := time.Now()
		got := messages(doctor.Run(t.Context(), checks, 0))
		want := []string{"slow ok late", "panics fail the check itself failed: oh", "hangs fail was not done after 1s", "heeds ok partly", "fast ok quick"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if took := time.Since(began); took != 50*time.Second {
			t.Errorf("took %v: not at once", took)
		}
		close(release)
	})
}

func TestRunIsBoundedAndCanBeInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var now, most atomic.Int32
		var checks []doctor.Check
		for range 10 {
			checks = append(checks, doctor.Check{Name: "c", Run: func(ctx context.Context) []plan.Finding {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
				return says("done")(ctx)
			}})
		}
		doctor.Run(ctx, checks, 3)
		if most.Load() != 3 {
			t.Errorf("%d at once, want 3", most.Load())
		}
		release := make(chan struct{})
		time.AfterFunc(time.Second, cancel)
		got := messages(doctor.Run(ctx, []doctor.Check{{Name: "hangs", Run: func(context.Context) []plan.Finding {
			<-release
			return nil
		}}}, 1))
		close(release)
		if !slices.Equal(got, []string{"hangs skip interrupted"}) {
			t.Errorf("got %q", got)
		}
	})
}

// has asserts on one finding: its state, a part of its message, and that what is wrong has a fix.
func has(t *testing.T, findings []plan.Finding, state plan.FindingKind, part string) {
	t.Helper()
	for _, f := range findings {
		if f.State == state && strings.Contains(f.Message, part) {
			if (state == plan.FindingWarn || state == plan.FindingFail) && f.Fix == "" {
				t.Errorf("%q has no fix", f.Message)
			}
			return
		}
	}
	t.Errorf("got %+v, want %s %q", findings, state, part)
}
