package tui

import (
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// Messages of the dashboard's own.
type (
	updateMsg struct {
		update
		at time.Time // when it was taken
	}
	clockMsg time.Time
)

// sources are the commands that wait for what is new: the only way from the world into the model.
type sources struct {
	update func(gap time.Duration) tea.Cmd // the next updateMsg, not before gap
	clock  tea.Cmd                         // a clockMsg after a second
}

// model is the state of the screen. Update routes messages to its methods; View draws, when something changed.
type model struct {
	sources
	keys  keyMap
	clean cleaner
	title string

	live, stale *look
	w, h        int
	focus       paneID
	nodes       *nodesPane
	requests    *requestsPane
	replicas    *replicasPane
	events      *eventsPane
	detail      *detailPane

	history *history
	scales  scales
	log     []cluster.Event // oldest first
	dropped int64
	shown   *scene // what the panes hold; nil before the first Snapshot
	waiting *scene // came while paused

	clock    time.Time
	came     time.Time // when the newest data came
	pausedAt time.Time
	err      *cluster.Error // of a feed that is out of reach
	isPaused bool
	isBlur   bool
	isHelp   bool
	isTyping bool
	filter   string

	isDirty bool
	frame   string
	cursor  *tea.Cursor
}

func newModel(s sources, symbols chart.Symbols, title string, zone *time.Location) *model {
	live := newLook(symbols, ansiTheme(), zone)
	return &model{
		sources: s, keys: newKeys(), clean: cleaner{plain: symbols == chart.ASCII}, title: title,
		live: live, stale: newLook(symbols, staleTheme(), zone),
		nodes: newNodesPane(live), requests: newRequestsPane(live), replicas: newReplicasPane(live),
		events: &eventsPane{look: live}, detail: &detailPane{look: live},
		history: newHistory(), isDirty: true,
	}
}

// Init starts to listen.
func (m *model) Init() tea.Cmd { return tea.Batch(m.update(0), m.sources.clock) }

// Update routes a message.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case updateMsg:
		m.onUpdate(msg)
		return m, m.update(m.gap())
	case clockMsg:
		m.onClock(time.Time(msg))
		return m, m.sources.clock
	case tea.WindowSizeMsg:
		m.w, m.h, m.isDirty = msg.Width, msg.Height, true
	case tea.KeyPressMsg:
		m.isDirty = true
		return m, m.onKey(msg)
	case tea.PasteMsg:
		m.onPaste(msg.Content)
	case tea.FocusMsg:
		m.isBlur = false
	case tea.BlurMsg:
		m.isBlur = true
	case tea.ResumeMsg:
		m.isDirty = true
	}
	return m, nil
}

// gap is how long to wait for the next update: a screen that nobody looks at costs little.
func (m *model) gap() time.Duration {
	if m.isBlur {
		return blurredGap
	}
	return focusedGap
}

func (m *model) onUpdate(u updateMsg) {
	m.isDirty = true
	m.clock, m.dropped = u.at, u.dropped
	m.err = m.clean.err(u.err)
	for _, e := range u.events {
		m.log = append(m.log, m.clean.event(e))
	}
	if n := len(m.log) - eventsKept; n > 0 {
		m.log = append([]cluster.Event(nil), m.log[n:]...)
	}
	var snap *cluster.Snapshot
	switch {
	case u.snapshot != nil:
		m.came = u.came
		snap = m.clean.snapshot(u.snapshot)
		m.history.add(snap)
		m.scales.follow(m.history, snap.At)
	case m.waiting != nil:
		snap = m.waiting.snap
	case m.shown != nil:
		snap = m.shown.snap
	default:
		return // events before the first Snapshot are kept in the log
	}
	next := newScene(snap, m.history, &m.scales, m.log)
	if m.isPaused {
		m.waiting = next
		return
	}
	m.show(next)
}

// onClock lets ages grow that do not come with a Snapshot.
func (m *model) onClock(now time.Time) {
	m.clock = now
	if m.err != nil || m.isPaused || m.clock.Sub(m.came) >= quietAfter {
		m.isDirty = true
	}
}

// show hands a scene to the panes.
func (m *model) show(s *scene) {
	m.shown, m.waiting = s, nil
	m.nodes.lengths, m.requests.lengths, m.replicas.lengths = s.lengths, s.lengths, s.lengths
	m.nodes.set(s.nodes, m.filter)
	m.requests.set(s.requests, m.filter)
	m.replicas.set(m.scope(s.replicas), m.filter)
	m.events.set(s.events, m.filter)
	m.detail.set(s)
}

// scope is the replicas of the node under the cursor, or all of them without one.
func (m *model) scope(all []replicaRow) []replicaRow {
	n := m.nodes.selected()
	if n == nil {
		return all
	}
	var out []replicaRow
	for _, r := range all {
		if r.node == n.ID {
			out = append(out, r)
		}
	}
	return out
}

// refresh shows the same scene again, after the cursor, the order or the filter changed.
func (m *model) refresh() {
	m.isDirty = true
	if m.shown == nil {
		return
	}
	waiting := m.waiting
	m.show(m.shown)
	m.waiting = waiting
}

func (m *model) pause() {
	m.isPaused = !m.isPaused
	m.pausedAt = m.clock
	if !m.isPaused && m.waiting != nil {
		m.show(m.waiting)
	}
}

func (m *model) onPaste(text string) {
	if m.isTyping {
		m.setFilter(m.filter + m.clean.text(text))
	}
}
