package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// journal is what a home was before an installation that is not over, and what that may have begun.
type journal struct {
	Operator string    `json:"operator"`
	At       time.Time `json:"at"`
	Before   state     `json:"before"`
	// Next is the unit that the installation puts in place.
	Next unitRecord `json:"next"`
}

// state is all that an installation changes. A file that was not there is null.
type state struct {
	Current     string `json:"current"`
	Settings    []byte `json:"settings"`
	Credentials []byte `json:"credentials"`
	// Unit is the record of the unit, UnitText its file, and Wanted says that it ran, or should have.
	Unit     *unitRecord `json:"unit"`
	UnitText []byte      `json:"unit_text"`
	Wanted   bool        `json:"wanted"`
}

// unitRecord is unit.json: the environment that chose a unit may be another one the next time.
type unitRecord struct {
	Kind       plan.UnitKind `json:"kind"`
	ServiceDir string        `json:"service_dir,omitempty"`
}

func journalPath(home string) string { return filepath.Join(home, "install.json") }

func readJournal(home string) (*journal, error) {
	data, err := readFile(journalPath(home))
	if data == nil {
		return nil, err
	}
	var j journal
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, cluster.Errorf(cluster.CodeConflict, "%s is damaged: %v", journalPath(home), err).
			WithHint("`mlxctl down --purge` for that host, then install it anew")
	}
	return &j, nil
}

// files are those that an installation replaces, with where their former text is kept.
func (b *state) files(home string) map[string][]byte {
	return map[string][]byte{
		filepath.Join(home, "node.json"):           b.Settings,
		filepath.Join(home, "agent", "node.creds"): b.Credentials,
	}
}

// capture looks at what there is.
func (s *session) capture(ctx context.Context) (state, error) {
	home := s.order.Home
	b := state{Current: pointsTo(home)}
	link := s.path("current")
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		return b, cluster.Errorf(cluster.CodeConflict, "%s is a folder, and should be a link to a version", link).
			WithHint("there: mv %s %s.old", link, link)
	}
	var errs [2]error
	b.Settings, errs[0] = readFile(s.path("node.json"))
	b.Credentials, errs[1] = readFile(s.path("agent", "node.creds"))
	records, err := s.records(ctx)
	if err := errors.Join(append(errs[:], err)...); err != nil || len(records) == 0 {
		return b, err
	}
	b.Unit = &records[0]
	d, err := s.open(*b.Unit)
	if err != nil {
		return b, err
	}
	if b.UnitText, err = d.Installed(); err != nil {
		return b, fmt.Errorf("read unit: %w", err)
	}
	status, err := d.Status(ctx)
	b.Wanted = status.Wanted
	return b, err
}

// records are the units that are installed: the one of the record, or none. Where the record is damaged, or nothing that is
// written down is to be relied on, they are all that are found.
func (s *session) records(ctx context.Context) ([]unitRecord, error) {
	data, err := readFile(s.path("unit.json"))
	if err != nil {
		return nil, err
	}
	var r unitRecord
	damaged := false
	if data != nil {
		err := json.Unmarshal(data, &r)
		if err == nil {
			_, err = s.open(r)
		}
		damaged = err != nil
	}
	switch {
	case damaged || s.forced:
		return s.found(ctx, append([]unitRecord{r}, s.stray...)), nil
	case data == nil:
		return nil, nil
	}
	return []unitRecord{r}, nil
}

// found looks for units of this home, of every kind and of those that may be more.
func (s *session) found(ctx context.Context, more []unitRecord) []unitRecord {
	var out []unitRecord
	for _, kind := range unit.Kinds() {
		r := unitRecord{Kind: kind}
		if kind == plan.UnitRunit {
			spec, err := s.Unit.Fill()
			if err != nil {
				continue // then there is none either
			}
			r.ServiceDir = spec.ServiceDir
		}
		more = append(more, r)
	}
	for _, r := range more {
		d, err := s.open(r)
		if err != nil || slices.Contains(out, r) {
			continue
		}
		text, err := d.Installed()
		status, _ := d.Status(ctx) // a system that cannot be asked has none
		if err != nil || text != nil || status.Loaded || status.Wanted || status.Running {
			out = append(out, r)
		}
	}
	return out
}

func (s *session) open(r unitRecord) (unit.Driver, error) {
	spec := s.Unit
	spec.ServiceDir = r.ServiceDir
	d, err := unit.Open(r.Kind, spec)
	if err != nil {
		return nil, fmt.Errorf("open unit: %w", err)
	}
	return d, nil
}

// undo makes the home what it was before an installation, and run what ran there. It may be cut short at any point and
// done again.
func (s *session) undo(ctx context.Context, j *journal) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	next, err := s.open(j.Next)
	if err != nil {
		return err
	}
	before := j.Before.Unit
	if before != nil && *before == j.Next {
		err = next.Stop(ctx)
	} else {
		err = next.Remove(ctx)
	}
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	s.at("undo stopped")
	if _, err := restoreFiles(s.order.Home, &j.Before); err != nil {
		return err
	}
	s.at("undo files")
	if before != nil {
		if err := s.runAgain(ctx, *before, &j.Before); err != nil {
			return err
		}
	}
	var record []byte
	if before != nil {
		if record, err = encode(before); err != nil {
			return err
		}
	}
	if err := restore(s.path("unit.json"), record); err != nil {
		return err
	}
	s.at("undo started")
	return restore(journalPath(s.order.Home), nil)
}

// runAgain puts a former unit back, and has it run if it did.
func (s *session) runAgain(ctx context.Context, r unitRecord, b *state) error {
	d, err := s.open(r)
	if err != nil {
		return err
	}
	there, err := d.Installed()
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	if b.UnitText != nil && string(there) != string(b.UnitText) {
		if err := d.Install(ctx, b.UnitText); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
	}
	if !b.Wanted || b.UnitText == nil {
		return nil
	}
	if err := d.Start(ctx); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

// restoreFiles makes the agent's files what they were; changed says that they were not.
func restoreFiles(home string, b *state) (changed bool, err error) {
	for path, data := range b.files(home) {
		there, err := readFile(path)
		if err != nil {
			return changed, err
		}
		if string(there) == string(data) && (there == nil) == (data == nil) {
			continue
		}
		changed = true
		if err := restore(path, data); err != nil {
			return changed, err
		}
	}
	if pointsTo(home) == b.Current {
		return changed, nil
	}
	return true, pointTo(home, b.Current)
}

// Recover goes back, as far as files go, from an installation in a home whose host's side died. undone says that the
// process that asks runs something that is not installed any more, and has to end: what starts it starts the right thing.
// It is for the agent, which may be started before anybody installs again.
func Recover(home string) (undone bool, err error) {
	if _, err := os.Stat(journalPath(home)); err != nil {
		return false, nil
	}
	lock, err := durable.TryLock(filepath.Join(home, "lock"))
	if errors.Is(err, durable.ErrHeld) {
		return false, nil // its installation goes on
	}
	if err != nil {
		return false, err
	}
	defer lock.Release()
	j, err := readJournal(home)
	if j == nil {
		return false, err
	}
	undone, err = restoreFiles(home, &j.Before)
	if err != nil {
		return undone, err
	}
	if before := j.Before.Unit; before == nil || *before != j.Next {
		return undone, nil // the unit is still to be undone, by who may
	}
	return undone, restore(journalPath(home), nil)
}

// watchEvery is how soon an agent notices that its installation was given up.
const watchEvery = 500 * time.Millisecond

// Watch follows an installation until ctx ends. It returns nil then, and an error when the installation was given up and
// this process has to end.
func Watch(ctx context.Context, home string) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		undone, err := Recover(home)
		if err != nil {
			return err
		}
		if undone {
			return cluster.Errorf(cluster.CodeCancelled, "the installation of this version was cut short; what was there before is back")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
