package doctor

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Host is one Mac, as those who know of it describe it together.
type Host struct {
	*bootstrap.Host
	Home  string        // of the node there, where the list of nodes says it
	By    string        // how it was admitted, as the list of nodes has it: "ssh", "token" or "local"
	State *cluster.Node // as the controller sees it; nil where it does not
}

// IsNode says that the Mac is a node of the cluster: the list of nodes or the controller has it.
func (h *Host) IsNode() bool {
	return h.From(bootstrap.SourceRoster) || h.From(bootstrap.SourceCluster)
}

// Cluster is what the judgement of a host depends on besides the host.
type Cluster struct {
	Up      bool   // the controller answers
	Version string // of the controller
	At      time.Time
}

// Serving says of a host whether it serves and, where it does not, why as far as the controller and Bonjour know.
func (h *Host) Serving(c Cluster) plan.Finding {
	var f plan.Finding
	switch {
	case h.State != nil && c.Up:
		f = h.judge(c)
	case h.IsNode() && !c.Up:
		f = skip("it is a node; the controller does not answer, so nobody knows how it is")
	case h.IsNode():
		f = h.unheard()
	case h.Self:
		f = warn("mlxctl up", "no agent runs on this machine")
	case h.From(bootstrap.SourceConfig):
		f = fail("mlxctl up", "not a node yet, though the configuration names it")
	case h.From(bootstrap.SourceBonjour) && !h.RemoteLogin:
		f = warn("System Settings → General → Sharing → Remote Login: on, then `mlxctl up`",
			"not a node: Remote Login is off")
	default:
		f = warn("mlxctl up "+quote(cmp.Or(h.Host.Host, h.Label())), "not a node: it has never been admitted")
	}
	f.Check = "serving"
	return f
}

// Explained joins what Serving says of a host with what was found there. A failure that says why it does not serve takes the
// place of the one that says that it does not: one cause is one finding.
func Explained(serving plan.Finding, found []plan.Finding) []plan.Finding {
	i := slices.IndexFunc(found, func(f plan.Finding) bool { return f.State == plan.FindingFail })
	if serving.State != plan.FindingFail || i < 0 {
		return append([]plan.Finding{serving}, found...)
	}
	why := found[i]
	why.Message = serving.Message + ": " + why.Message
	return append([]plan.Finding{why}, slices.Delete(slices.Clone(found), i, i+1)...)
}

func (h *Host) judge(c Cluster) plan.Finding {
	n := h.State
	reason := ""
	if n.Reason != "" {
		reason = ": " + n.Reason
	}
	name := quote(n.Name)
	switch n.State {
	case cluster.NodeReady:
		if c.Version != "" && n.Version != "" && n.Version != c.Version {
			return warn("mlxctl upgrade", "serving, with version %s; the controller has %s", n.Version, c.Version)
		}
		models := "models"
		if len(n.Replicas) == 1 {
			models = "model"
		}
		return ok("serving; %d %s in memory, %d on disk", len(n.Replicas), models, len(n.Models))
	case cluster.NodeDraining:
		return warn("mlxctl undrain "+name, "%s: it takes nothing new%s", n.StateName(), reason)
	case cluster.NodeSuspect:
		return fail("ping "+cmp.Or(h.Host.Host, n.Name)+"   # asleep, or off the network?", "suspect, last heard %s ago%s", age(c.At.Sub(n.LastSeen)), reason)
	case cluster.NodeJoining:
		return warn("mlxctl logs "+name, "joining: it has not proven itself yet%s", reason)
	case cluster.NodeDown:
		if n.LastSeen.IsZero() {
			return h.unheard()
		}
	}
	return fail("mlxctl up   # wakes, repairs and starts it again; `mlxctl nodes rm "+name+"` if it is gone for good",
		"down, last heard %s ago%s", age(c.At.Sub(n.LastSeen)), reason)
}

// unheard is the finding of a node that has never said a word.
func (h *Host) unheard() plan.Finding {
	if h.By == "token" {
		return fail("finish it there: mlxctl agent join TOKEN   # the same token, or one of `mlxctl token create`",
			"it joined by a token, and was never heard of: its agent has not come up yet")
	}
	return fail("mlxctl up", "it is a node, and was never heard of")
}

func age(d time.Duration) string {
	if d >= 48*time.Hour {
		return strconv.Itoa(int(d.Hours()/24)) + " days"
	}
	return max(d, 0).Round(time.Second).String()
}
