package host

import (
	"bufio"
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// talk is the conversation with the operator's side. say and step are safe for concurrent use.
type talk struct {
	mu  sync.Mutex
	out *json.Encoder // guarded by mu

	in chan plan.ToHost // bounded: who says more than is asked for is cut off
}

// say tells the operator's side. One that is not there any more is noticed by its silence.
func (t *talk) say(m plan.FromHost) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.out.Encode(m)
}

func (t *talk) step(step string, state plan.State, detail string) {
	t.say(plan.FromHost{Type: plan.TypeStep, Step: step, State: state, Detail: oneLine(detail)})
}

// listen reads what the operator's side says until it says commit, abort or nothing any more; the latter two end the
// installation.
func (t *talk) listen(lines *bufio.Scanner, end context.CancelCauseFunc) {
	for lines.Scan() {
		var m plan.ToHost
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			end(cluster.Errorf(cluster.CodeInvalid, "the operator's side does not speak as it should"))
			return
		}
		if m.Type == plan.TypeAbort {
			end(cluster.Errorf(cluster.CodeCancelled, "called off: %s", oneLine(m.Reason)))
			return
		}
		select {
		case t.in <- m:
		default:
			end(cluster.Errorf(cluster.CodeInvalid, "the operator's side says more than it is asked"))
			return
		}
		if m.Type == plan.TypeCommit {
			return // whatever becomes of the connection now, this counts
		}
	}
	end(cluster.Errorf(cluster.CodeCancelled, "the operator went away before it was done"))
}

// expect waits for the one thing that may be said now.
func (t *talk) expect(ctx context.Context, kind string, most time.Duration) (plan.ToHost, error) {
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case m := <-t.in:
		if m.Type != kind {
			return m, cluster.Errorf(cluster.CodeInvalid, "the operator's side said %q where it was asked for %q", oneLine(m.Type), kind)
		}
		return m, nil
	case <-ctx.Done():
		return plan.ToHost{}, context.Cause(ctx)
	case <-late.C:
		return plan.ToHost{}, cluster.Errorf(cluster.CodeTimeout, "the operator's side did not say %q within %s", kind, most)
	}
}

// mostText bounds what is told of a text that somebody else wrote, in bytes.
const mostText = 1000

// oneLine makes a text harmless to a terminal.
func oneLine(text string) string { return untrusted.Line(text, mostText) }
