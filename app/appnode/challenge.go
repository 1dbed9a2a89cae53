package appnode

import (
	"container/list"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
)

// Bounds of challenges that wait for an answer.
const (
	maxOfHost     = 256
	maxChallenges = 1 << 16
)

// A challenge is one that this node gave a host.
type challenge struct {
	value [app.ChallengeSize]byte
	host  string
	asked time.Time
}

// challenges are those that no statement has answered yet. The zero value has none.
type challenges struct {
	mu     sync.Mutex
	by     map[[app.ChallengeSize]byte]*list.Element
	oldest list.List      // of challenge, in the order in which they were given
	hosts  map[string]int // how many each host has
}

// give makes one for a host. It refuses (overloaded) a host that has too many, or all of them.
func (c *challenges) give(host string, now time.Time) ([app.ChallengeSize]byte, error) {
	x := challenge{host: host, asked: now}
	_, _ = rand.Read(x.value[:]) // never fails
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by, c.hosts = map[[app.ChallengeSize]byte]*list.Element{}, map[string]int{}
	}
	for e := c.oldest.Front(); e != nil && now.Sub(e.Value.(challenge).asked) > app.Lifetime; e = c.oldest.Front() {
		c.drop(e)
	}
	if c.hosts[host] >= maxOfHost || len(c.by) >= maxChallenges {
		return x.value, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "challenge for host " + host,
			Want: fmt.Sprintf("at most %d unanswered challenges of a host in %v, and %d of all", maxOfHost, app.Lifetime, maxChallenges), Got: "as many"})
	}
	c.by[x.value] = c.oldest.PushBack(x)
	c.hosts[host]++
	return x.value, nil
}

// take returns when a challenge was given to the host, which may answer it no more.
func (c *challenges) take(value [app.ChallengeSize]byte, host string) (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[value]
	if e == nil || e.Value.(challenge).host != host {
		return time.Time{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonReportReplayed, Where: "application statement",
			Want: "an answer to a challenge that this node gave host " + host, Got: "another, or one that was answered"})
	}
	c.drop(e)
	return e.Value.(challenge).asked, nil
}

func (c *challenges) drop(e *list.Element) {
	x := c.oldest.Remove(e).(challenge)
	delete(c.by, x.value)
	if c.hosts[x.host]--; c.hosts[x.host] == 0 {
		delete(c.hosts, x.host)
	}
}
