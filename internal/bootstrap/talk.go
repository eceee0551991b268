package bootstrap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	mostLine     = 1 << 20 // of one message
	mostMessages = 20000   // of one conversation, whatever they are
	mostSteps    = 64
	copyWait     = 15 * time.Minute // for one file
	defaultGate  = 30 * time.Second
	endWait      = 10 * time.Second // for a host's side that has said its last word
)

// silence is how long the host may say nothing, by what it does.
func (a *apply) silence(step string) time.Duration {
	gate := a.job.Order.Gate
	if gate <= 0 {
		gate = defaultGate
	}
	switch step {
	case plan.StepPython:
		return 15 * time.Minute
	case plan.StepUnit, plan.StepCommit:
		return 2*time.Minute + gate
	case plan.StepLink:
		return time.Minute + gate
	}
	return 2 * time.Minute
}

// talk runs the host's side and speaks with it until it is done.
func (a *apply) talk(ctx context.Context, binary string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := a.session.Start(ctx, "exec "+quote(binary)+" agent host")
	if err != nil {
		return cluster.Errorf(cluster.CodeUnreachable, "%s: %v", a.h.Label(), err)
	}
	lines := make(chan heard)
	read := make(chan struct{})
	go func() {
		defer close(read)
		listen(ctx, d.Out, lines)
	}()
	err = a.say(d, a.job.Order)
	if err == nil || !errors.Is(err, context.Canceled) { // a host's side that cannot be spoken to may still say why
		err = a.converse(ctx, d, lines)
	}
	_ = d.In.Close()
	if errors.Is(err, errOver) {
		drain(lines)
	}
	d.Kill()
	cancel()
	<-read
	ended := d.Wait()
	switch {
	case errors.Is(err, errOver):
		return a.failure
	case errors.Is(err, io.EOF):
		return a.endedEarly(d, ended)
	}
	return err
}

// drain lets a host's side that has said its last word end by itself.
func drain(lines <-chan heard) {
	late := time.NewTimer(endWait)
	defer late.Stop()
	for {
		select {
		case h := <-lines:
			if h.err != nil {
				return
			}
		case <-late.C:
			return
		}
	}
}

// endedEarly says why the host's side went away without a last word.
func (a *apply) endedEarly(d *duplex, ended error) error {
	if a.failure != nil {
		return a.failure
	}
	text := lastLine(d.Errors.Bytes())
	if text == "" && ended != nil {
		text = untrusted.Line(ended.Error(), mostDetail)
	}
	if text == "" {
		text = "the connection ended"
	}
	e := cluster.Errorf(cluster.CodeInternal, "%s on %s ended early: %s", a.job.Order.Action, a.h.Label(), text)
	if a.committed || a.job.Order.Action != plan.Install {
		return e.WithHint("how far it came is not known; run it again")
	}
	return e.WithHint("it goes back to what it was; run it again")
}

// heard is one line of the host's side.
type heard struct {
	m   plan.FromHost
	err error
}

// listen reads lines until there are no more. What is not a message is left out: login shells say all sorts of things.
func listen(ctx context.Context, from io.Reader, to chan<- heard) {
	tell := func(h heard) bool {
		select {
		case to <- h:
			return h.err == nil
		case <-ctx.Done():
			return false
		}
	}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, mostLine)
	for count := 0; lines.Scan(); count++ {
		var m plan.FromHost
		if count >= mostMessages {
			tell(heard{err: errors.New("it says too much")})
			return
		}
		if json.Unmarshal(lines.Bytes(), &m) != nil || m.Type == "" {
			continue
		}
		cleanMessage(&m)
		if !tell(heard{m: m}) {
			return
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		tell(heard{err: errors.New("it sent a line that is too long")})
		return
	}
	tell(heard{err: io.EOF})
}

// say sends one line. It does not block for ever: the host's side reads between its steps, and ctx ends the connection.
func (a *apply) say(d *duplex, message any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return cluster.Errorf(cluster.CodeInternal, "encode message: %v", err)
	}
	_, err = d.In.Write(append(data, '\n'))
	return err
}

// converse answers the host's side until it says that it is done, which is errOver.
func (a *apply) converse(ctx context.Context, d *duplex, lines <-chan heard) error {
	step := plan.StepLock
	timer := time.NewTimer(a.silence(step))
	defer timer.Stop()
	for {
		timer.Reset(a.silence(step))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return cluster.Errorf(cluster.CodeTimeout, "%s says nothing while it is at step %s", a.h.Label(), step).
				WithHint("run it again")
		case h := <-lines:
			if errors.Is(h.err, io.EOF) {
				return h.err
			}
			if h.err != nil {
				return cluster.Errorf(cluster.CodeInternal, "%s does not speak as it should: %v", a.h.Label(), h.err)
			}
			if h.m.Type == plan.TypeStep {
				step = h.m.Step
			}
			answer, err := a.answer(ctx, &h.m)
			if err != nil {
				return err
			}
			if answer != nil {
				_ = a.say(d, answer) // one that went away says so by its end
			}
		}
	}
}

// answer does what a message asks for. What fails here has the host undo everything; its last word is still waited for.
func (a *apply) answer(ctx context.Context, m *plan.FromHost) (*plan.ToHost, error) {
	if a.failure == nil && a.isOther(m) {
		step := m.Step
		if step == "" {
			step = plan.StepIdentity
		}
		answer, err := a.abort(ctx, step, cluster.Errorf(cluster.CodeUnauthorized, "%s says it is another node than the one that was signed for it", a.h.Label()).
			WithHint("whoever runs that host may be after another node; look at it before it is added again"))
		if m.Type == plan.TypeDone && err == nil {
			a.done(m)
			err = errOver
		}
		return answer, err
	}
	switch m.Type {
	case plan.TypeStep:
		a.heardStep(m)
	case plan.TypeKey:
		return a.sign(ctx, m)
	case plan.TypeAsk:
		return a.offer(ctx), nil
	case plan.TypeNeed:
		if err := a.send(ctx, m); err != nil {
			return a.abort(ctx, plan.StepPython, err)
		}
		return &plan.ToHost{Type: plan.TypeHave}, nil
	case plan.TypeLinked:
		return a.prove(ctx, m)
	case plan.TypeReport:
		a.result.Findings = report(m.Checks)
	case plan.TypeDone:
		a.done(m)
		return nil, errOver
	}
	return nil, nil //nolint:nilnil // nothing to say
}

// isOther says that a host speaks of another node than that whose key it had signed. Were it believed, its word would be
// enough to take the place of any node.
func (a *apply) isOther(m *plan.FromHost) bool {
	return a.signed && m.Type != plan.TypeKey && m.Node != "" && m.Node != a.result.Node
}

func (a *apply) heardStep(m *plan.FromHost) {
	if m.State == plan.StateChanged {
		a.result.Changed = true
	}
	if len(m.Log) > 0 {
		a.result.Log = m.Log
	}
	var err error
	if m.Error != nil {
		err = m.Error
	}
	a.event(m.Step, m.State, m.Detail, err)
}

func (a *apply) done(m *plan.FromHost) {
	a.result.Changed = a.result.Changed || m.Changed
	if m.Unit != "" {
		a.result.Unit = m.Unit
	}
	a.result.Left = m.Left
	if m.Node != "" && !a.signed {
		a.result.Node = m.Node
	}
	if len(m.Log) > 0 {
		a.result.Log = m.Log
	}
	if m.Error != nil && a.failure == nil { // ours came first, and theirs follows from it
		a.failure = m.Error
	}
}

// abort has the host undo everything, and remembers why.
func (a *apply) abort(ctx context.Context, step string, err error) (*plan.ToHost, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	a.failure = err
	a.event(step, plan.StateFailed, "", err)
	return &plan.ToHost{Type: plan.TypeAbort, Reason: err.Error()}, nil
}

func (a *apply) sign(ctx context.Context, m *plan.FromHost) (*plan.ToHost, error) {
	if a.signed || a.job.Sign == nil {
		return a.abort(ctx, plan.StepJoin, cluster.Errorf(cluster.CodeUnauthorized, "%s asks for another signature", a.h.Label()))
	}
	a.signed = true
	a.result.Node, a.result.Key, a.result.Hardware = m.Node, m.Key, m.Hardware
	jwt, err := a.job.Sign(ctx, m.Node, m.Key, m.Hardware)
	if err != nil {
		return a.abort(ctx, plan.StepJoin, err)
	}
	return &plan.ToHost{Type: plan.TypeCredentials, JWT: jwt}, nil
}

func (a *apply) prove(ctx context.Context, m *plan.FromHost) (*plan.ToHost, error) {
	if m.Link == nil || a.failure != nil || a.committed {
		return a.abort(ctx, plan.StepLink, cluster.Errorf(cluster.CodeInternal, "%s does not say how its agent stands", a.h.Label()))
	}
	if a.job.Sign != nil && !a.signed {
		return a.abort(ctx, plan.StepLink, cluster.Errorf(cluster.CodeUnauthorized, "%s says that its agent is up, and had no key signed for it", a.h.Label()))
	}
	a.result.Link = m.Link
	if m.Unit != "" {
		a.result.Unit = m.Unit
	}
	node := a.result.Node
	if node == "" {
		node = m.Link.Node
		a.result.Node = node
	}
	if a.job.Prove == nil {
		a.committed = true
		return &plan.ToHost{Type: plan.TypeCommit}, nil
	}
	a.event(plan.StepProve, plan.StateRunning, "", nil)
	if err := a.job.Prove(ctx, node, a.job.Order.Version, *m.Link); err != nil {
		return a.abort(ctx, plan.StepProve, err)
	}
	a.event(plan.StepProve, plan.StateOK, "", nil)
	a.committed = true
	return &plan.ToHost{Type: plan.TypeCommit}, nil
}

// offer fetches the packages for the host's platform and lists them. That they cannot be had is for the host to tell: it
// knows why it cannot fetch them either.
func (a *apply) offer(ctx context.Context) *plan.ToHost {
	f := &a.h.Facts
	if a.job.Wheels == nil {
		return &plan.ToHost{Type: plan.TypeOffer, Reason: "there are none to send"}
	}
	a.event(plan.StepPython, plan.StateRunning, "fetching packages here to send them", nil)
	dir, files, err := a.job.Wheels(ctx, f.OS, f.Arch, f.Python)
	if err != nil {
		return &plan.ToHost{Type: plan.TypeOffer, Reason: err.Error()}
	}
	a.wheels, a.offered = dir, files
	return &plan.ToHost{Type: plan.TypeOffer, Files: files}
}

// send copies packages that were offered into a folder of the node's home.
func (a *apply) send(ctx context.Context, m *plan.FromHost) error {
	inside := path.Clean(m.Folder) == m.Folder && strings.HasPrefix(m.Folder, a.job.Order.Home+"/")
	if !inside || a.wheels == "" {
		return cluster.Errorf(cluster.CodeInvalid, "%s wants files in %q, which were not offered", a.h.Label(), untrusted.Line(m.Folder, mostDetail))
	}
	ctx, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	for i, want := range m.Files {
		n := slices.IndexFunc(a.offered, func(f plan.File) bool { return f.Name == want.Name })
		if n < 0 {
			return cluster.Errorf(cluster.CodeInvalid, "%s wants %q, which was not offered", a.h.Label(), untrusted.Line(want.Name, mostName))
		}
		f := a.offered[n]
		a.event(plan.StepPython, plan.StateRunning, fmt.Sprintf("sending %s (%d of %d)", f.Name, i+1, len(m.Files)), nil)
		_, err := put(ctx, a.session, blob{
			Path: path.Join(m.Folder, path.Base(f.Name)), SHA256: f.SHA256, Bytes: f.Bytes, Mode: "644",
			Open: func() (io.ReadCloser, error) { return os.Open(filepath.Join(a.wheels, f.Name)) },
		})
		if err != nil {
			return err
		}
	}
	return nil
}
