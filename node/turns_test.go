package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keystead/keystead"
)

func machineNo(i int) keystead.Digest { return keystead.Sum([]byte{byte(i)}) }

// TestTurnsAreFair has fifty machines keep as many long judgements waiting as they may,
// and another that comes now and then: it waits for the judgements that have begun, and
// for no other.
func TestTurnsAreFair(t *testing.T) {
	const long, short = 300 * time.Millisecond, 5 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		x := newTurns(2, time.Hour)
		var all sync.WaitGroup
		for i := range 50 {
			for range maxWaiting {
				all.Go(func() {
					for {
						end, err := x.take(ctx, machineNo(i))
						if err != nil {
							return
						}
						time.Sleep(long)
						end()
					}
				})
			}
		}
		synctest.Wait()
		time.Sleep(50 * long) // all of them have had some turns
		for range 20 {
			asked := time.Now()
			end, err := x.take(ctx, machineNo(100))
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(asked); waited > long {
				t.Errorf("waited %v, one judgement takes %v", waited, long)
			}
			time.Sleep(short)
			end()
		}
		cancel()
		all.Wait()
	})
}

// TestTurnsAreBounded: so many at a time, of one machine one, of one machine so many that
// wait, and none for longer than the patience. Who gives up leaves no trace.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTurns(2, time.Second)
		ctx, cancel := context.WithCancel(context.Background())
		first, err := x.take(ctx, machineNo(1))
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, maxWaiting)
		for range maxWaiting {
			go func() {
				_, err := x.take(ctx, machineNo(1))
				errs <- err
			}()
		}
		synctest.Wait()
		if _, err := x.take(ctx, machineNo(1)); !errors.Is(err, keystead.ReasonOverloaded) {
			t.Errorf("one more that waits: %v", err)
		}
		second, err := x.take(ctx, machineNo(2))
		if err != nil {
			t.Fatal(err)
		}
		for range maxWaiting {
			if err := <-errs; !errors.Is(err, keystead.ReasonOverloaded) {
				t.Errorf("waited in vain: %v", err)
			}
		}
		go func() {
			_, err := x.take(ctx, machineNo(3))
			errs <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("gave up: %v", err)
		}
		first()
		second()
		if x.running != 0 || len(x.ready) != 0 || len(x.of) != 0 {
			t.Errorf("left behind: %+v", x)
		}
	})
}

// TestTurnsForget has far more machines come once than are remembered.
func TestTurnsForget(t *testing.T) {
	x := newTurns(2, time.Second)
	stays, err := x.take(t.Context(), keystead.Digest{}) // so that it is never idle
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		end, err := x.take(t.Context(), keystead.Sum([]byte{byte(i), byte(i >> 8)}))
		if err != nil {
			t.Fatal(err)
		}
		end()
	}
	if len(x.of) > 4096 {
		t.Errorf("%d machines are remembered", len(x.of))
	}
	stays()
}
