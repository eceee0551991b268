package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// DefaultTimeout bounds a check that names no time of its own.
	DefaultTimeout = 10 * time.Second
	// grace is what a check that was told to end gets to say what it knows.
	grace = 500 * time.Millisecond
)

// Check is one thing to look at. Run must end soon after its context; findings without a Check get its Name. None at
// all mean that there is nothing to look at on this machine.
type Check struct {
	Name    string // lower-kebab-case
	Subject string // the Mac that it is about; empty means this one
	Timeout time.Duration
	Run     func(ctx context.Context) []plan.Finding
}

// Result is what a check found.
type Result struct {
	Name     string
	Subject  string
	Findings []plan.Finding
	Took     time.Duration
}

// Run runs checks, parallel of them at a time (8 where that is not positive), and returns their results in the order of
// the checks. A check that does not end in its time is reported as failed, and left behind if it does not heed its
// context either: a folder on a dead file server must not take the others' results along.
func Run(ctx context.Context, checks []Check, parallel int) []Result {
	if parallel <= 0 {
		parallel = 8
	}
	results := make([]Result, len(checks))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, c := range checks {
		group.Go(func() error {
			results[i] = c.result(ctx)
			return nil
		})
	}
	_ = group.Wait() // no check returns an error
	return results
}

func (c Check) result(ctx context.Context) Result {
	limit := c.Timeout
	if limit <= 0 {
		limit = DefaultTimeout
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []plan.Finding, 1) // so that a check that was left behind can end
	go func() { done <- c.guarded(ctx) }()
	var findings []plan.Finding
	select {
	case findings = <-done:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case findings = <-done:
		case <-late.C:
			findings = []plan.Finding{c.unfinished(ctx, limit)}
		}
	}
	for i := range findings {
		if findings[i].Check == "" {
			findings[i].Check = c.Name
		}
	}
	return Result{Name: c.Name, Subject: c.Subject, Findings: findings, Took: time.Since(began)}
}

func (c Check) unfinished(ctx context.Context, limit time.Duration) plan.Finding {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return skip("interrupted")
	}
	return fail("", "was not done after %v", limit)
}

// guarded makes a finding of a check that panics: the others still count.
func (c Check) guarded(ctx context.Context) (findings []plan.Finding) {
	defer func() {
		if p := recover(); p != nil {
			findings = []plan.Finding{fail("", "the check itself failed: %v", p)}
		}
	}()
	return c.Run(ctx)
}

func ok(format string, args ...any) plan.Finding {
	return plan.Finding{State: plan.FindingOK, Message: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) plan.Finding {
	return plan.Finding{State: plan.FindingWarn, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(fix, format string, args ...any) plan.Finding {
	return plan.Finding{State: plan.FindingFail, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func skip(format string, args ...any) plan.Finding {
	return plan.Finding{State: plan.FindingSkip, Message: fmt.Sprintf(format, args...)}
}

// one makes a list of a finding.
func one(f plan.Finding) []plan.Finding { return []plan.Finding{f} }

// Failure makes a finding of an error; its hint, where it has one, is a better fix than the one given.
func Failure(check, fix string, err error) plan.Finding {
	e := cluster.AsError(err)
	return plan.Finding{Check: check, State: plan.FindingFail, Message: e.Message, Fix: cmp.Or(e.Hint, fix)}
}
