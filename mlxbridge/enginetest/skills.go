package enginetest

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const mostCounted = 100_000

// What a fake engine can do.
var (
	countOrder   = regexp.MustCompile(`Count from (\d{1,9}) to (\d{1,9})\.`)
	weatherOrder = regexp.MustCompile(`^What is the weather in ([A-Za-z]+)\?$`)
)

// toolCall is the call that answers a request, in pieces of its arguments; nil for a request that none answers.
func toolCall(req *cluster.Request) []string {
	if len(req.Tools) == 0 || len(req.Messages) == 0 || req.ToolChoice != nil && req.ToolChoice.Mode == cluster.ToolNone {
		return nil
	}
	m := weatherOrder.FindStringSubmatch(req.Messages[len(req.Messages)-1].Content)
	if m == nil {
		return nil
	}
	return []string{`{"`, "city", `": "`, m[1], `"}`}
}

// Skills answers "Count from A to B." as the test models do, "1, 2, 3", with a token for each number, and says "ok" to
// anything else. The last message counts, or the prompt.
func Skills(req *cluster.Request) []string {
	text := ""
	if req.Prompt != nil {
		text = *req.Prompt
	} else if n := len(req.Messages); n > 0 {
		text = req.Messages[n-1].Content
	}
	m := countOrder.FindStringSubmatch(text)
	if m == nil {
		return []string{"ok"}
	}
	from, _ := strconv.Atoi(m[1]) // the pattern lets numbers through that fit
	to, _ := strconv.Atoi(m[2])
	var out []string
	for n := from; n <= to && len(out) < mostCounted; n++ {
		token := strconv.Itoa(n)
		if n > from {
			token = ", " + token
		}
		out = append(out, token)
	}
	return out
}

// Counted is the one right answer to "Count from A to B.", of the test models and of Skills.
func Counted(from, to int) string {
	var b strings.Builder
	for n := from; n <= to; n++ {
		if n > from {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(n))
	}
	return b.String()
}

func promptOf(req *cluster.Request) string {
	if req.Prompt != nil {
		return *req.Prompt
	}
	var b strings.Builder
	for _, m := range req.Messages {
		b.WriteString(m.Content)
		b.WriteByte('\n')
	}
	return b.String()
}
