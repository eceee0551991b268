package cmd

import (
	"fmt"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// stepEvent is one line of `-o json` while hosts are changed.
type stepEvent struct {
	Type string `json:"type"` // step
	Host string `json:"host"`
	hostID
	Step   string         `json:"step"`
	State  plan.State     `json:"state"`
	Detail string         `json:"detail,omitempty"`
	Error  *cluster.Error `json:"error,omitempty"`
	At     time.Time      `json:"at"`
	TookMS int64          `json:"took_ms"`
}

// hostID tells machines apart that have one name.
type hostID struct {
	Node    cluster.NodeID `json:"node,omitempty"`
	Address string         `json:"address,omitempty"`
	HostKey string         `json:"host_key,omitempty"` // fingerprint
}

func idOf(p *planItem) hostID { return hostID{p.Node, p.Address, p.HostKey} }

// key is what a machine is known by while it is changed, whatever is learned of it meanwhile.
func (p *planItem) key() string { return fmt.Sprintf("%p", p) }

// hostResult is the line of one host that is done, and its entry in the summary.
type hostResult struct {
	Type string `json:"type,omitempty"` // host
	Name string `json:"name"`
	hostID
	What    string         `json:"what"`
	Serves  bool           `json:"serves"`
	Changed bool           `json:"changed"`
	Left    string         `json:"left,omitempty"` // why it was left as it is
	Error   *cluster.Error `json:"error,omitempty"`
	Log     []string       `json:"log,omitempty"` // with Error: the end of its agent's log
	// Warnings are what keeps it from serving as well as it could.
	Warnings []plan.Finding `json:"warnings,omitempty"`
	TookMS   int64          `json:"took_ms"`
}

// upEvents tells what happens: for people on stderr, as lines of JSON on stdout. It is safe for concurrent use.
type upEvents struct {
	d        *deps
	out      printer.Options
	progress *iostreams.Progress

	mu    sync.Mutex
	board *iostreams.Board           // nil while nothing is done on hosts
	names []string                   // of those that the plan changes
	said  map[*planItem]saidProgress // by host: the last line of how far a step is
}

// saidProgress is a line of progress, and when it was told.
type saidProgress struct {
	step string
	at   time.Time
}

// everyProgress is how often a log is told how far a step is.
const everyProgress = 10 * time.Second

func newUpEvents(d *deps, out printer.Options) *upEvents {
	return &upEvents{d: d, out: out, progress: d.streams.NewProgress(d.quiet)}
}

func (e *upEvents) isJSON() bool { return e.out.Format == printer.JSON }

// looking says what is done before there is a plan.
func (e *upEvents) looking(what string) { e.progress.Step("%s", what) }

// endLooking leaves the terminal clean for the plan.
func (e *upEvents) endLooking() {
	e.progress.Close()
	e.progress = e.d.streams.NewProgress(e.d.quiet)
}

// pause takes whatever moves off the terminal, for a question.
func (e *upEvents) pause() (resume func()) {
	e.mu.Lock()
	board := e.board
	e.mu.Unlock()
	if board != nil {
		return board.Pause()
	}
	return e.progress.Pause()
}

func (e *upEvents) close() {
	e.endBoard()
	e.progress.Close()
}

// warn tells of something that is not in order and does not stop the command.
func (e *upEvents) warn(message, hint string) error {
	if hint != "" {
		message += " (" + hint + ")"
	}
	defer e.pause()()
	return e.d.say("%s", printer.Clean(message))
}

// plan shows the plan, and shows it again where that changes before it is done. It is the result of a dry run, else talk.
func (e *upEvents) plan(items []*planItem, isResult bool) error {
	e.endLooking()
	if items == nil {
		items = []*planItem{}
	}
	e.mu.Lock()
	e.names = nil
	for _, p := range items {
		if p.changes() {
			e.names = append(e.names, printer.Clean(p.Name))
		}
	}
	e.mu.Unlock()
	if isResult && e.out.Format == printer.YAML {
		return printer.Object(e.d.streams.Out, printer.YAML, planEvent{"plan", items})
	}
	if e.isJSON() {
		return printer.Line(e.d.streams.Out, planEvent{"plan", items})
	}
	if isResult {
		return printPlan(e.d.streams, items, true)
	}
	return e.planned(items)
}

// trusted says whose keys were trusted just now, even to who wants no talk: what was let in once is let in for good.
func (e *upEvents) trusted(hosts []*bootstrap.Host) error {
	defer e.pause()()
	for _, h := range hosts {
		if h.Key.State != bootstrap.KeyKnown {
			continue // its key could not be written down
		}
		where := h.Label()
		if h.Host != "" && h.Host != where {
			where += " (" + h.Host + ")"
		}
		if _, err := fmt.Fprintf(e.d.streams.Err, "trusted the SSH host key %s of %s\n", h.Key.Fingerprint, printer.Clean(where)); err != nil {
			return err
		}
	}
	return nil
}

type planEvent struct {
	Type  string      `json:"type"` // plan
	Items []*planItem `json:"items"`
}

// planned shows people a plan in which something is done, or cannot be.
func (e *upEvents) planned(items []*planItem) error {
	isQuestion := needsYes(items) && e.d.streams.CanAsk()
	isNews := false
	for _, p := range items {
		isNews = isNews || p.changes() || p.What != whatNothing && (p.What != whatCannot || p.isSeen) // the end tells of the others
	}
	if !isNews || (e.d.quiet && !isQuestion) {
		return nil
	}
	toErr := *e.d.streams
	toErr.Out = toErr.Err
	return printPlan(&toErr, items, false)
}

// step tells one step of one host.
func (e *upEvents) step(p *planItem, h bootstrap.Event) {
	detail := printer.Clean(h.Detail)
	if e.isJSON() {
		if !e.isDue(p, h) {
			return
		}
		line := stepEvent{
			Type: "step", Host: p.Name, hostID: idOf(p), Step: h.Step, State: h.State, Detail: detail, Error: cluster.AsError(h.Err),
			At: h.At.UTC(), TookMS: h.Took.Milliseconds(),
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		_ = printer.Line(e.d.streams.Out, line) // a reader that went away does not stop an installation
		return
	}
	if h.Err != nil {
		detail = "" // the end says why
	}
	e.onBoard(func(b *iostreams.Board) {
		b.Step(p.key(), printer.Clean(p.Name), printer.Clean(h.Step), string(h.State), detail)
	})
}

// isDue says whether an event is to be told in a log: of how far a step is only as often as a reader wants to know.
func (e *upEvents) isDue(p *planItem, h bootstrap.Event) bool {
	if h.State != plan.StateRunning || h.Detail == "" {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if last, ok := e.said[p]; ok && last.step == h.Step && h.At.Sub(last.at) < everyProgress {
		return false
	}
	if e.said == nil {
		e.said = map[*planItem]saidProgress{}
	}
	e.said[p] = saidProgress{h.Step, h.At}
	return true
}

// ended tells that a host is done.
func (e *upEvents) ended(p *planItem) {
	if e.isJSON() {
		r := resultOf(p)
		r.Type = "host"
		e.mu.Lock()
		defer e.mu.Unlock()
		_ = printer.Line(e.d.streams.Out, r)
		return
	}
	line := "serves"
	switch {
	case p.outcome.isCut:
		line = p.outcome.text()
	case p.outcome.err != nil:
		line = "failed" // the end says why
	case p.done != "":
		line = p.done
	}
	line += fmt.Sprintf(" (%.1f s)", p.outcome.took.Seconds())
	e.onBoard(func(b *iostreams.Board) { b.End(p.key(), printer.Clean(p.Name), p.outcome.err == nil, line) })
}

func (e *upEvents) onBoard(do func(*iostreams.Board)) {
	e.mu.Lock()
	if e.board == nil {
		e.board = e.d.streams.NewBoard(e.d.quiet)
		e.board.Names(e.names...)
	}
	b := e.board
	e.mu.Unlock()
	do(b)
}

func (e *upEvents) endBoard() {
	e.mu.Lock()
	b := e.board
	e.board = nil
	e.mu.Unlock()
	if b != nil {
		b.Close()
	}
}

// resultOf is what came of one machine of the plan.
func resultOf(p *planItem) hostResult {
	r := hostResult{Name: p.Name, hostID: idOf(p), What: p.What, Left: p.left, Warnings: p.Warnings}
	switch {
	case p.outcome != nil:
		if p.outcome.err != nil {
			r.Log = endOfLog(p.log)
		}
		r.Serves = p.outcome.err == nil && p.What != whatStop && p.What != whatRemove
		r.Changed = p.outcome.err == nil && p.outcome.changed
		r.Error, r.TookMS = cluster.AsError(p.outcome.err), p.outcome.took.Milliseconds()
		if p.outcome.isCut {
			r.Error = &cluster.Error{Code: cluster.CodeCancelled, Message: p.outcome.text()}
		}
	case p.What == whatNothing:
		r.Serves = true
	case p.What == whatCannot:
		code := cluster.CodeConflict
		if p.isAuth {
			code = cluster.CodeUnauthorized
		}
		r.Error = &cluster.Error{Code: code, Message: p.Reason, Hint: p.Fix}
	}
	return r
}
