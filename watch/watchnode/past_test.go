package watchnode

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchersOfThePast: however many watchers read old leaves, they take half of one
// processor's time, and who follows what happens, or is the node itself, waits for none.
func TestWatchersOfThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(pastTurn, 1)
		began, most, at := time.Now(), 0, 0
		for range 10 {
			go func() {
				end, err := p.take(t.Context(), true)
				if err != nil {
					t.Error(err)
					return
				}
				at++
				most = max(most, at)
				time.Sleep(time.Second)
				at--
				end()
			}()
		}
		synctest.Wait()
		for what, turn := range map[string]pastTurn{"who follows": p, "the node": nil} {
			end, err := turn.take(t.Context(), turn == nil)
			if err != nil || time.Since(began) != 0 {
				t.Errorf("%s waited for %v: %v", what, time.Since(began), err)
			}
			end()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.take(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who leaves: %v", err)
		}
		time.Sleep(time.Minute)
		end, err := p.take(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		end()
		time.Sleep(time.Second)
		if most != 1 {
			t.Errorf("%d read at a time", most)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := make(pastTurn, 1)
		began := time.Now()
		for range 3 {
			end, err := p.take(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			end()
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("three looks of a second took %v, with the pauses between them 5 s are wanted", took)
		}
		time.Sleep(time.Second)
	})
}
