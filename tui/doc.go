// Package tui is the dashboard of `mlxctl top`: one screen of nodes, loaded models, requests and events that follows a
// Feed of cluster Snapshots. It draws and reads keys; it knows nothing of networks.
//
// There is one Bubble Tea model. Panes are plain structs whose Render(w, h) returns exactly h lines of exactly w
// columns. Update only routes; a frame is composed when something changed and kept until the next change. Every string
// of a Snapshot or an Event is stripped of control characters before anything else sees it.
package tui
