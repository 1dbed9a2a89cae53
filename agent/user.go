package agent

import (
	"strconv"
	"sync"

	"github.com/keystead/keystead"
)

// measurements is how many measurements of one user's processes are under way at most.
const (
	measurements    = 4
	maxMeasurements = "4"
)

// user is what one user of the machine takes up.
type user struct {
	uid   uint32
	slots chan struct{} // one for each measurement under way
	conns int

	mu     sync.Mutex
	tokens float64 // releases that it may ask for now
	at     Moment  // when tokens was right
}

// users bounds what the users of the machine take up, each for itself.
type users struct {
	perSecond float64
	maxConns  int
	maxUser   int

	mu    sync.Mutex
	known map[uint32]*user
	conns int
}

func newUsers(c SocketConfig) *users {
	return &users{perSecond: float64(c.ReleasesPerSecond), maxConns: c.MaxConnections, maxUser: c.MaxPerUser, known: map[uint32]*user{}}
}

// enter counts a connection, or returns nil if there are too many. Leave takes it off.
func (s *users) enter(uid uint32, now Moment) (u *user, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u = s.known[uid]; u == nil {
		u = &user{uid: uid, slots: make(chan struct{}, measurements), tokens: 2 * s.perSecond, at: now}
	}
	if s.conns >= s.maxConns || u.conns >= s.maxUser {
		return nil, nil
	}
	s.known[uid] = u
	s.conns++
	u.conns++
	return u, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns--
		u.conns--
	}
}

// forget drops users that take up nothing, so that the list does not grow.
func (s *users) forget(now Moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, u := range s.known {
		if u.conns == 0 && len(u.slots) == 0 && u.rested(s, now) {
			delete(s.known, uid)
		}
	}
}

func (u *user) rested(s *users, now Moment) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refill(s, now)
	return u.tokens >= 2*s.perSecond
}

func (u *user) refill(s *users, now Moment) {
	u.tokens = min(2*s.perSecond, u.tokens+s.perSecond*now.Sub(u.at).Seconds())
	u.at = now
}

// release takes one release from what the user may ask for, or refuses (overloaded).
func (u *user) release(s *users, now Moment) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refill(s, now)
	if u.tokens < 1 {
		return overloaded("releases to one user", "socket.releases-per-second, "+strconv.FormatFloat(s.perSecond, 'f', -1, 64)+", at most")
	}
	u.tokens--
	return nil
}

func overloaded(where, want string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: where, Want: want, Got: "more"})
}
