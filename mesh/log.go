package mesh

import (
	"context"
	"log/slog"
	"strings"
)

// logWriter turns memberlist's lines, "[LEVEL] memberlist: text", into
// records.
type logWriter struct{ log *slog.Logger }

// quiet are lines that tell of one packet or attempt. Their consequence, when
// there is one, is logged by us as a change of state.
var quiet = []string{
	"Failed to send", "Failed fallback TCP ping", "Push/Pull with", "ignoring alive message",
	"Failed to receive", "failed to receive", "Failed to read", "Failed push/pull",
	"Failed to push", "Got ping for unexpected node", "Was able to connect",
	"Refuting", "Suspect", "Marking",
	// The other end closed it before it had said anything.
	`discarding stream with unacceptable label ""`,
}

// Write implements io.Writer.
func (w logWriter) Write(b []byte) (int, error) {
	level, text := splitLine(string(b))
	w.log.Log(context.Background(), level, "memberlist", "says", text)
	return len(b), nil
}

func splitLine(s string) (slog.Level, string) {
	s = strings.TrimRight(s, "\n")
	level := slog.LevelWarn // a line that does not say
	if tag, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "] "); ok && strings.HasPrefix(s, "[") {
		s = rest
		switch tag {
		case "DEBUG":
			level = slog.LevelDebug
		case "INFO":
			level = slog.LevelInfo
		case "WARN":
		default:
			level = slog.LevelError
		}
	}
	s = strings.TrimPrefix(s, "memberlist: ")
	for _, q := range quiet {
		if strings.HasPrefix(s, q) {
			return slog.LevelDebug, s
		}
	}
	return level, s
}
