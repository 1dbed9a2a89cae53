package serve

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/part"
)

// call is a request that was let in, with what is taken for it: memory of its class, until
// the handler has returned and nothing of it is held any more.
type call struct {
	*inside
	row   *row
	class part.Class
	who   any // who pays: an address, a key, a node's name

	mu       sync.Mutex
	message  int64 // taken for the message that is being read or unpacked
	answer   int64 // for the answer, or the part of it that is being sent
	held     int64 // for what goes on when the handler is done with a message
	built    int64 // bytes of that answer
	refused  error // why nothing more of the body is taken
	lastSize int64 // of the message that was read last, in bytes
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// take takes memory, and counts it where it is paid for.
func (c *call) take(n int64, on *int64) error {
	if err := c.room.take(c.who, n, c.room.size); err != nil {
		return err
	}
	c.mu.Lock()
	*on += n
	c.mu.Unlock()
	return nil
}

// drop gives back what was taken for something.
func (c *call) drop(on *int64) {
	c.mu.Lock()
	n := *on
	*on = 0
	c.mu.Unlock()
	if n != 0 {
		c.room.leave(c.who, n)
	}
}

// end gives back what the handler had. What is held goes on.
func (c *call) end() {
	c.drop(&c.message)
	c.drop(&c.answer)
}

// hold keeps the last message's bytes taken until release is called, for what was made of
// it and goes on; of what was made, more is no longer needed.
func hold(ctx context.Context) (release func()) {
	c := callOf(ctx)
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	n := min(c.message, c.lastSize*perHeld)
	c.message -= n
	c.held += n
	c.mu.Unlock()
	return sync.OnceFunc(func() {
		c.mu.Lock()
		c.held -= n
		c.mu.Unlock()
		if n != 0 {
			c.room.leave(c.who, n)
		}
	})
}

// spend takes memory for so many bytes of the answer, as [part.Spend] has it.
func (c *call) spend(n int) error {
	c.mu.Lock()
	c.built += int64(n)
	built := c.built
	c.mu.Unlock()
	if built > c.row.Out {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "answer", Want: fmt.Sprintf("at most %d bytes: ask for less at a time", c.row.Out), Got: "more"})
	}
	return c.take(int64(n)*perAnswered, &c.answer)
}

// sent tells that what was spent on is on its way: a stream's next message is another.
func sent(ctx context.Context) {
	c := callOf(ctx)
	if c == nil {
		return
	}
	c.mu.Lock()
	c.built = 0
	c.mu.Unlock()
	c.drop(&c.answer)
}

// refusedIn returns why a call's body was not taken, if it was not.
func refusedIn(ctx context.Context) error {
	c := callOf(ctx)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

func (c *call) refuse(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = err
	return err
}

// with returns the request as that of the call.
func (c *call) with(r *http.Request) *http.Request {
	return r.WithContext(part.WithBudget(context.WithValue(r.Context(), callKey{}, c), c.spend))
}
