package bus

import (
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Subjects of a cluster. Permissions follow them: what a node may publish has its id at a fixed place, so that it can
// speak only as itself.
//
//	mlx.hb.<node>              heartbeats
//	mlx.evt.<node>.<kind>      what a node tells unasked
//	mlx.cmd.<node>.<verb>      what a node is asked
//	mlx.cmd.<node>.ctl.<id>    acknowledgements and cancels of a stream from a node
//	mlx.r.<node>.<id>          a stream from a node
//	mlx.r.<node>.q.<n>         one reply from a node
//	mlx.all.<verb>             to every node
//	mlx.api.<verb>             what the controller is asked
//	mlx.api.ctl.<id>           acknowledgements and cancels of a stream from the controller
//	mlx.c.<client>.<id>        a stream from the controller
//	mlx.c.<client>.q.<n>       one reply from the controller

// Verbs of a node.
const (
	VerbInfer   = "infer"   // InferRequest → stream of cluster.Chunk
	VerbAside   = "aside"   // AsideRequest → stream of cluster.AsideReply, pieces of one
	VerbLoad    = "load"    // LoadRequest → stream of cluster.Chunk
	VerbUnload  = "unload"  // UnloadRequest → reply without body
	VerbResolve = "resolve" // ResolveRequest → ResolveReply
	VerbLogs    = "logs"    // LogsRequest → stream of LogLine
	VerbDrain   = "drain"   // DrainRequest → reply without body
	VerbRejoin  = "rejoin"  // RejoinRequest → RejoinReply
)

// Kinds of what a node tells unasked.
const (
	EventHello = "hello" // Hello
	EventNews  = "news"  // cluster.Event
)

// HeartbeatSubject is where a node's heartbeats go.
func HeartbeatSubject(node cluster.NodeID) string { return "mlx.hb." + string(node) }

// HeartbeatAll matches the heartbeats of all nodes.
func HeartbeatAll() string { return "mlx.hb.*" }

// ParseHeartbeat returns the node of a heartbeat's subject. The server has checked that the node speaks as itself.
func ParseHeartbeat(subject string) cluster.NodeID {
	return cluster.NodeID(strings.TrimPrefix(subject, "mlx.hb."))
}

// EventSubject is where a node tells something unasked.
func EventSubject(node cluster.NodeID, kind string) string {
	return "mlx.evt." + string(node) + "." + kind
}

// EventAll matches what all nodes tell unasked.
func EventAll() string { return "mlx.evt.*.*" }

// ParseEvent returns the node and the kind of an event's subject. The server has checked that the node speaks as
// itself.
func ParseEvent(subject string) (node cluster.NodeID, kind string, ok bool) {
	part := strings.Split(subject, ".")
	if len(part) != 4 || part[0] != "mlx" || part[1] != "evt" {
		return "", "", false
	}
	return cluster.NodeID(part[2]), part[3], true
}

// CommandSubject is where a node listens to a verb.
func CommandSubject(node cluster.NodeID, verb string) string {
	return "mlx.cmd." + string(node) + "." + verb
}

// ControlSubject is the StreamCall.Control of streams from a node.
func ControlSubject(node cluster.NodeID) string { return "mlx.cmd." + string(node) + ".ctl" }

// ReplySubject is the StreamCall.Reply of a stream from a node.
func ReplySubject(node cluster.NodeID, id string) string { return "mlx.r." + string(node) + "." + id }

// HelloAll asks every node to say hello; it has no body.
func HelloAll() string { return "mlx.all.hello" }

// APISubject is where the controller listens to a verb.
func APISubject(verb string) string { return "mlx.api." + verb }

// APIControl is the StreamCall.Control of streams from the controller.
func APIControl() string { return "mlx.api.ctl" }

// ClientSubject is the StreamCall.Reply of a stream from the controller to a client.
func ClientSubject(client, id string) string { return "mlx.c." + client + "." + id }

// ClientInbox is the Options.InboxPrefix of a client: its requests are answered below it.
func ClientInbox(client string) string { return "mlx.c." + client + ".q" }

// replyPrefix is where the answer to a request to subject goes: nodes may publish below their own replies only.
func replyPrefix(subject, inbox string) string {
	if rest, ok := strings.CutPrefix(subject, "mlx.cmd."); ok {
		node, _, _ := strings.Cut(rest, ".")
		return "mlx.r." + node + ".q"
	}
	return inbox
}

// mayReply says whether somebody who was asked on subject may answer on reply. Who answers often may publish more than
// who asks: without this, a client could have the controller publish to a node for it.
func mayReply(subject, reply string) bool {
	if reply == "" || strings.ContainsAny(reply, "*> \t\r\n") {
		return false
	}
	switch {
	case strings.HasPrefix(subject, "mlx.cmd."):
		rest := strings.TrimPrefix(subject, "mlx.cmd.")
		node, _, _ := strings.Cut(rest, ".")
		return strings.HasPrefix(reply, "mlx.r."+node+".")
	case strings.HasPrefix(subject, "mlx.api."):
		return strings.HasPrefix(reply, "mlx.c.") || strings.HasPrefix(reply, "_INBOX")
	default:
		return !strings.HasPrefix(reply, "mlx.cmd.") && !strings.HasPrefix(reply, "mlx.all.") && !strings.HasPrefix(reply, "$")
	}
}
