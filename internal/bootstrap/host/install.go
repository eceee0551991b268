package host

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// reverseAddr is where an agent listens for its controller where the order names no address.
const reverseAddr = ":8661"

// target is what the home is to be.
type target struct {
	identity Identity
	before   state
	settings plan.Settings
	jwt      string // empty keeps the credentials that are there
	driver   unit.Driver
	record   unitRecord
	text     []byte // of the unit
	current  string // where the link is to point
	ended    int    // how often the agent had ended by itself before its link is waited for
}

// install makes the node run the order's version with its settings, or leaves it as it was.
func (s *session) install(ctx context.Context) error {
	if err := s.checkOwner(); err != nil {
		return err
	}
	var t target
	var err error
	if t.before, err = s.capture(ctx); err != nil {
		return err
	}
	if t.identity, err = s.identify(ctx); err != nil {
		return err
	}
	if t.jwt, err = s.join(ctx, t.identity, &t.before); err != nil {
		return err
	}
	if err := s.python(ctx); err != nil {
		return err
	}
	if err := s.choose(ctx, &t); err != nil {
		return s.failed(plan.StepUnit, err)
	}
	why, err := s.reasons(ctx, &t)
	if err != nil {
		return s.failed(plan.StepUnit, err)
	}
	if len(why) == 0 {
		s.settled(plan.StepUnit, false, string(t.record.Kind))
		link, err := s.link(ctx, &t)
		if err == nil {
			return s.decided(ctx, &t, link)
		}
		if context.Cause(ctx) != nil {
			return err
		}
		why = []string{"it does not reach its controller"}
	}
	return s.change(ctx, &t, why)
}

// checkOwner leaves a home alone that a controller is run out of, or was: its settings come first.
func (s *session) checkOwner() error {
	if _, err := os.Stat(s.path("local.json")); err != nil {
		return nil
	}
	return cluster.Errorf(cluster.CodeConflict, "%s is the home of a cluster of its own", s.order.Home).
		WithHint("`mlxctl down --purge` there ends it")
}

func (s *session) identify(ctx context.Context) (Identity, error) {
	s.talk.step(plan.StepIdentity, plan.StateRunning, "")
	_, err := os.Stat(s.path("agent", "node.json"))
	isNew := err != nil
	id, err := s.Identity(ctx, s.order.Home)
	if err != nil {
		return id, s.failed(plan.StepIdentity, err)
	}
	s.done.Node = id.Node
	s.settled(plan.StepIdentity, isNew, string(id.Node))
	return id, nil
}

// join has the key signed. Credentials that say the same as those that are there do not replace them.
func (s *session) join(ctx context.Context, id Identity, before *state) (jwt string, err error) {
	s.talk.step(plan.StepJoin, plan.StateRunning, "")
	s.talk.say(plan.FromHost{Type: plan.TypeKey, Node: id.Node, Key: id.Key, Hardware: id.Hardware})
	m, err := s.talk.expect(ctx, plan.TypeCredentials, s.decide)
	if err == nil && m.JWT == "" {
		err = cluster.Errorf(cluster.CodeUnauthorized, "the key of this node was not signed")
	}
	if err != nil {
		return "", s.failed(plan.StepJoin, err)
	}
	if saysTheSame(m.JWT, jwtOf(before.Credentials)) {
		s.settled(plan.StepJoin, false, "")
		return "", nil
	}
	s.settled(plan.StepJoin, true, "")
	return m.JWT, nil
}

// jwtOf finds the token in a file of credentials.
func jwtOf(credentials []byte) string {
	_, rest, _ := bytes.Cut(credentials, []byte("-----BEGIN NATS USER JWT-----"))
	token, _, _ := bytes.Cut(rest, []byte("-----"))
	return strings.TrimSpace(string(token))
}

// saysTheSame compares two tokens but for when they were made.
func saysTheSame(a, b string) bool {
	said := func(token string) map[string]any {
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			return nil
		}
		data, err := base64.RawURLEncoding.DecodeString(parts[1])
		var claims map[string]any
		if err != nil || json.Unmarshal(data, &claims) != nil {
			return nil
		}
		delete(claims, "iat")
		delete(claims, "jti")
		return claims
	}
	x, y := said(a), said(b)
	return x != nil && reflect.DeepEqual(x, y)
}

// choose decides what runs the agent, and with which settings.
func (s *session) choose(ctx context.Context, t *target) error {
	kind := s.order.Unit
	spec := s.Unit
	if before := t.before.Unit; before != nil && before.Kind == plan.UnitRunit && (kind == "" || kind == before.Kind) {
		spec.ServiceDir = before.ServiceDir
	}
	spec, err := spec.Fill()
	if err != nil {
		return fmt.Errorf("choose unit: %w", err)
	}
	if t.driver, err = unit.Choose(ctx, kind, spec); err != nil {
		return fmt.Errorf("choose unit: %w", err)
	}
	// One that was installed with a password is not given up because this time there is none.
	if before := t.before.Unit; before != nil && kind == "" && unit.Worse(t.driver.Kind(), before.Kind) {
		if t.driver, err = s.open(*before); err != nil {
			return err
		}
	}
	t.record = unitRecord{Kind: t.driver.Kind()}
	if t.record.Kind == plan.UnitRunit {
		t.record.ServiceDir = spec.ServiceDir
	}
	if t.text, err = t.driver.Text(); err != nil {
		return fmt.Errorf("choose unit: %w", err)
	}
	s.done.Unit = t.record.Kind
	t.current = filepath.Join("versions", s.order.Version)
	t.settings = s.order.Settings
	var old plan.Settings
	if t.settings.ReverseAddr == "" && json.Unmarshal(t.before.Settings, &old) == nil && old.ClusterID == t.settings.ClusterID {
		t.settings.ReverseAddr = old.ReverseAddr // one that listens still dials
	}
	if t.record.Kind == plan.UnitLaunchAgent { // macOS lets it dial nobody on the local network
		t.settings.ReverseAddr = cmp.Or(t.settings.ReverseAddr, reverseAddr)
	}
	return nil
}

// reasons says what has to change; nothing where the node is as it should be.
func (s *session) reasons(ctx context.Context, t *target) ([]string, error) {
	b := &t.before
	settings, err := encode(t.settings)
	if err != nil {
		return nil, err
	}
	var why []string
	for _, c := range []struct {
		differs bool
		what    string
	}{
		{b.Current == "", "not installed"},
		{b.Current != "" && b.Current != t.current, "version"},
		{b.Current != "" && !bytes.Equal(b.Settings, settings), "settings"},
		{t.jwt != "", "credentials"},
		{b.Unit == nil || *b.Unit != t.record || !bytes.Equal(b.UnitText, t.text), "unit"},
	} {
		if c.differs {
			why = append(why, c.what)
		}
	}
	if len(why) > 0 {
		return why, nil
	}
	status, err := t.driver.Status(ctx)
	t.ended = status.Ended
	if err == nil && !status.Running {
		why = append(why, "not running")
	}
	return why, err
}

// change replaces what there is, proves what came of it, and goes back where that fails.
func (s *session) change(ctx context.Context, t *target, why []string) error {
	s.talk.step(plan.StepUnit, plan.StateRunning, strings.Join(why, ", "))
	if err := s.mayChange(ctx, t); err != nil {
		return s.failed(plan.StepUnit, err)
	}
	j := &journal{Operator: oneLine(s.order.Operator), At: time.Now().UTC(), Before: t.before, Next: t.record}
	data, err := encode(j)
	if err == nil {
		err = restore(journalPath(s.order.Home), data)
	}
	if err != nil {
		return s.failed(plan.StepUnit, err)
	}
	s.at("journal")
	s.logged = s.logSize()
	link, err := s.put(ctx, t)
	if err == nil {
		if err = s.decided(ctx, t, link); err == nil {
			return nil
		}
		s.done.Log = s.logTail(s.logged)
	}
	if undoErr := s.undo(ctx, j); undoErr != nil {
		s.talk.say(plan.FromHost{Type: plan.TypeStep, Step: plan.StepUnit, State: plan.StateFailed, Error: explain(undoErr, s.order.Home)})
		return errors.Join(err, undoErr)
	}
	s.talk.step(plan.StepUnit, plan.StateUndone, s.wasBefore(t))
	s.done.Changed = false
	return err
}

// mayChange says before anything is touched whether it can be, and put back.
func (s *session) mayChange(ctx context.Context, t *target) error {
	if err := unit.Available(ctx, t.driver); err != nil {
		return err
	}
	b := t.before.Unit
	if b == nil || *b == t.record {
		return nil
	}
	d, err := s.open(*b)
	if err != nil {
		return err
	}
	return unit.Available(ctx, d)
}

func (s *session) wasBefore(t *target) string {
	if t.before.Current == "" {
		return "nothing runs here, as before"
	}
	return filepath.Base(t.before.Current) + " is back"
}

// put stages everything, starts it, and waits for it to reach its controller.
func (s *session) put(ctx context.Context, t *target) (*plan.Link, error) {
	if err := s.stage(ctx, t); err != nil {
		return nil, s.failed(plan.StepUnit, err)
	}
	s.logged = s.logSize()
	if err := s.start(ctx, t); err != nil {
		s.done.Log = s.logTail(s.logged)
		return nil, s.failed(plan.StepUnit, err)
	}
	s.settled(plan.StepUnit, true, string(t.record.Kind))
	s.talk.step(plan.StepLink, plan.StateRunning, "")
	link, err := s.link(ctx, t)
	if errors.Is(err, errDenied) {
		t.settings.ReverseAddr = reverseAddr
		s.talk.step(plan.StepLink, plan.StateRunning, "it may dial nobody on the local network; its controller is to dial it, at "+reverseAddr)
		if err = t.driver.Stop(ctx); err == nil {
			err = s.writeSettings(t)
		}
		if err == nil {
			err = s.start(ctx, t)
		}
		if err == nil {
			link, err = s.link(ctx, t)
		}
	}
	if err != nil {
		s.done.Log = s.logTail(s.logged)
		return nil, s.failed(plan.StepLink, err)
	}
	s.settled(plan.StepLink, true, describe(link))
	return link, nil
}

// stage puts files and unit in place; what ran before does not run any more.
func (s *session) stage(ctx context.Context, t *target) error {
	if b := t.before.Unit; b != nil {
		d, err := s.open(*b)
		if err != nil {
			return err
		}
		if *b == t.record {
			err = d.Stop(ctx)
		} else {
			err = d.Remove(ctx)
		}
		if err != nil {
			return fmt.Errorf("end what ran before: %w", err)
		}
	}
	s.at("stopped")
	if t.jwt != "" {
		if err := s.Join(ctx, s.order.Home, t.jwt); err != nil {
			return err
		}
		s.at("credentials")
	}
	if err := s.writeSettings(t); err != nil {
		return err
	}
	s.at("settings")
	if err := s.flip(t); err != nil {
		return err
	}
	s.at("current")
	record, err := encode(t.record)
	if err == nil {
		err = restore(s.path("unit.json"), record)
	}
	if err != nil {
		return err
	}
	there, err := t.driver.Installed()
	if err == nil && !bytes.Equal(there, t.text) {
		err = t.driver.Install(ctx, t.text)
	}
	if err != nil {
		return fmt.Errorf("install unit: %w", err)
	}
	s.at("unit")
	return nil
}

func (s *session) writeSettings(t *target) error {
	data, err := encode(t.settings)
	if err != nil {
		return err
	}
	return restore(s.path("node.json"), data)
}

// start begins the agent; what it says of its link from now on is news.
func (s *session) start(ctx context.Context, t *target) error {
	if err := s.openLog(); err != nil {
		return err
	}
	if err := restore(s.path("run", "link.json"), nil); err != nil {
		return err
	}
	if err := t.driver.Start(ctx); err != nil {
		return err
	}
	t.ended = 0
	s.at("started")
	return nil
}

// decided waits for the operator's word, and lets go of what was before.
func (s *session) decided(ctx context.Context, t *target, link *plan.Link) error {
	s.at("linked")
	s.talk.say(plan.FromHost{Type: plan.TypeLinked, Node: t.identity.Node, Link: link, Unit: t.record.Kind})
	if _, err := s.talk.expect(ctx, plan.TypeCommit, s.decide); err != nil {
		return s.failed(plan.StepCommit, err)
	}
	s.at("commit")
	if err := restore(journalPath(s.order.Home), nil); err != nil {
		return s.failed(plan.StepCommit, err)
	}
	s.at("committed")
	if err := s.prune(); err != nil {
		s.Log.WarnContext(ctx, "cannot remove old versions", "err", err)
	}
	s.talk.step(plan.StepCommit, plan.StateOK, "")
	return nil
}
