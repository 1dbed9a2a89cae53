package node

import (
	"log/slog"
	"sync"
	"time"

	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/part"
)

// toldEvery is how often the log names one limit, at most.
const toldEvery = 10 * time.Second

// maxTold bounds how many limits are told apart meanwhile.
const maxTold = 256

// limited says which limits a node applies to whom: in its log, where a flood is a line now
// and then, and in full in its metrics.
type limited struct {
	log   *slog.Logger
	count func(class, reason string)

	mu   sync.Mutex
	told map[string]*telling // by class and limit
}

type telling struct {
	at    time.Time
	times int // not told since
}

func (l *limited) init(n *Node) {
	l.log, l.count, l.told = n.log, n.metrics.limited, map[string]*telling{}
}

// note takes note of a limit that was applied.
func (l *limited) note(class part.Class, from, what string, because error) {
	deny := refusal.Deny(because)
	if deny == nil || len(deny.Findings) == 0 {
		return
	}
	f := deny.Findings[0]
	l.count(class.String(), string(f.Reason))
	l.mu.Lock()
	key := class.String() + " " + string(f.Reason) + " " + f.Want
	t := l.told[key]
	if t == nil {
		if len(l.told) >= maxTold {
			clear(l.told)
		}
		t = &telling{}
		l.told[key] = t
	}
	t.times++
	times, due := t.times, time.Since(t.at) >= toldEvery
	if due {
		t.at, t.times = time.Now(), 0
	}
	l.mu.Unlock()
	if due {
		l.log.Warn("limit applied", "to", class, "from", from, "of", what, "reason", f.Reason, "limit", f.Want, "times", times)
	}
}
