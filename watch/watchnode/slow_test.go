package watchnode

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keystead/keystead"
)

// TestSlowWatcher cuts who takes too long for a message, and says where to go on.
func TestSlowWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := func(d time.Duration) error {
			return inTime(func() error { time.Sleep(d); return nil }, 17)
		}
		if err := takes(watchPatience); err != nil {
			t.Errorf("in time: %v", err)
		}
		err := takes(watchPatience + time.Millisecond)
		if !errors.Is(err, keystead.ReasonWatcherSlow) {
			t.Errorf("too slow: %v", err)
		}
		gone := errors.New("gone")
		if err := inTime(func() error { time.Sleep(time.Hour); return gone }, 17); !errors.Is(err, gone) {
			t.Errorf("who left: %v", err)
		}
	})
}
