package tui

import (
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// Symbols of Options.
const (
	SymbolsAuto    = "auto"    // by LC_ALL, LC_CTYPE, LANG and TERM
	SymbolsBraille = "braille" // charts of dots, two samples a column
	SymbolsBlock   = "block"   // charts of blocks, for fonts without braille
	SymbolsASCII   = "ascii"   // nothing but ASCII on the whole screen
)

// symbols resolves the name of a set of symbols; env decides for "" and "auto".
func symbols(name string, env []string) (chart.Symbols, error) {
	switch name {
	case SymbolsBraille:
		return chart.Braille, nil
	case SymbolsBlock:
		return chart.Block, nil
	case SymbolsASCII:
		return chart.ASCII, nil
	case "", SymbolsAuto:
		if isUTF8(env) && variable(env, "TERM") != "linux" && !isDumb(env) {
			return chart.Braille, nil
		}
		return chart.ASCII, nil
	}
	return 0, cluster.Invalid("symbols", "must be auto, braille, block or ascii, not \""+cleaner{}.text(name)+"\"")
}

func isUTF8(env []string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} { // the first that is set counts
		if v := strings.ToLower(variable(env, name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

func isDumb(env []string) bool { return variable(env, "TERM") == "dumb" }

// variable returns the last value of name in env.
func variable(env []string, name string) string {
	value := ""
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// marks are the characters that are not text.
type marks struct {
	corner                  [4]string // top left, top right, bottom left, bottom right
	across, down            string
	pointer, ellipsis, none string
	dot, times, paused      string
	more, less              string
}

func newMarks(s chart.Symbols) marks {
	if s == chart.ASCII {
		return marks{
			corner: [4]string{"+", "+", "+", "+"}, across: "-", down: "|",
			pointer: ">", ellipsis: "~", none: "-", dot: "-", times: "x", paused: "=", more: "v", less: "^",
		}
	}
	return marks{
		corner: [4]string{"╭", "╮", "╰", "╯"}, across: "─", down: "│",
		pointer: "▸", ellipsis: "…", none: "–", dot: "·", times: "×", paused: "‖", more: "↓", less: "↑",
	}
}

// look is how everything is drawn: symbols, styles, time zone. It is rebuilt when one of them changes, never changed.
type look struct {
	symbols chart.Symbols
	marks   marks
	paints
	zone *time.Location
}

func newLook(s chart.Symbols, t theme, zone *time.Location) *look {
	return &look{symbols: s, marks: newMarks(s), paints: newPaints(t), zone: zone}
}

// sign is a state as people see it: a glyph and its colour; the word goes with it, always.
type sign struct {
	glyph string
	paint paint
}

func (k *look) sign(fine, plain string, p paint) sign {
	if k.symbols == chart.ASCII {
		return sign{plain, p}
	}
	return sign{fine, p}
}

func (k *look) nodeSign(s cluster.NodeState) sign {
	switch s {
	case cluster.NodeReady:
		return k.sign("●", "*", k.ok)
	case cluster.NodeJoining:
		return k.sign("◐", "~", k.busy)
	case cluster.NodeDraining:
		return k.sign("▼", "v", k.warn)
	case cluster.NodeSuspect:
		return k.sign("◌", "?", k.warn)
	case cluster.NodeDown:
		return k.sign("○", "x", k.bad)
	}
	return k.sign("?", "?", k.warn)
}

func (k *look) replicaSign(s cluster.ReplicaState) sign {
	switch s {
	case cluster.ReplicaReady:
		return k.sign("●", "*", k.ok)
	case cluster.ReplicaLoading:
		return k.sign("◐", "~", k.busy)
	case cluster.ReplicaEvicting:
		return k.sign("▼", "v", k.warn)
	case cluster.ReplicaFailed:
		return k.sign("✗", "x", k.bad)
	case cluster.ReplicaQuarantined:
		return k.sign("⊘", "#", k.bad)
	}
	return k.sign("?", "?", k.warn)
}

func (k *look) requestSign(s cluster.RequestState) sign {
	switch s {
	case cluster.RequestStreaming:
		return k.sign("●", "*", k.ok)
	case cluster.RequestPrefill:
		return k.sign("◑", ">", k.busy)
	case cluster.RequestLoading:
		return k.sign("◐", "~", k.busy)
	case cluster.RequestShared:
		return k.sign("◍", "=", k.ok)
	case cluster.RequestQueued:
		return k.sign("◌", ".", k.warn)
	}
	return k.sign("?", "?", k.warn)
}

// eventSign returns the sign and the word of a kind of event.
func (k *look) eventSign(kind cluster.EventKind) (sign, string) {
	switch kind {
	case cluster.EventNodeState:
		return k.sign("◆", "+", k.accent), "node"
	case cluster.EventReplicaState:
		return k.sign("◆", "+", k.accent), "model"
	case cluster.EventRequestError:
		return k.sign("✗", "x", k.bad), "request"
	case cluster.EventOperator:
		return k.sign("◇", "-", k.text), "operator"
	}
	return k.sign("·", ".", k.dim), string(kind)
}
