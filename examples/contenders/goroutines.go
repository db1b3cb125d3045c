// A goroutine per connection, by Go: written as threads are, and run by as many threads as there are processors.
//
// The accept queue is as deep as net.core.somaxconn; TCP_NODELAY is Go's default.
//
// Build and run:  go build -o goroutines goroutines.go && ./goroutines 7007
// See also:       net.Listen, and our async.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	buffer    = 65536 // what one receive takes at most, as of our server
	pause     = 100 * time.Millisecond
	threadCPU = 3 // CLOCK_THREAD_CPUTIME_ID, clock_gettime(2)
)

// How much CPU time the thread has used that this goroutine runs on.
func threadTime() time.Duration {
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, threadCPU, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}

func compute(amount time.Duration) {
	runtime.LockOSThread() // whose clock it is
	for end := threadTime() + amount; threadTime() < end; {
	}
	runtime.UnlockOSThread()
}

// What serving a message costs besides the echo, as a function: none, cpu:2ms, sleep:2ms.
func work(text string) (func(), error) {
	kind, amount, _ := strings.Cut(text, ":")
	cost, err := time.ParseDuration(amount)
	switch {
	case text == "none":
		return func() {}, nil
	case kind == "cpu" && err == nil:
		return func() { compute(cost) }, nil
	case kind == "sleep" && err == nil:
		return func() { time.Sleep(cost) }, nil
	}
	return nil, errors.New("write it like none, cpu:2ms or sleep:2ms")
}

// Echoes until the client's FIN, by when all is sent, or until it is lost.
func converse(client net.Conn, toil func()) {
	defer client.Close()
	received := make([]byte, buffer)
	for {
		n, err := client.Read(received)
		if err != nil {
			return
		}
		toil()
		if _, err := client.Write(received[:n]); err != nil {
			return
		}
	}
}

// PORT [--work WORK]
func arguments(words []string) (port uint64, toil func(), err error) {
	cost := "none"
	if len(words) == 3 && words[1] == "--work" {
		words, cost = words[:1], words[2]
	}
	if len(words) != 1 {
		return 0, nil, errors.New("a port is missing, or there is too much")
	}
	if port, err = strconv.ParseUint(words[0], 10, 16); err != nil || port == 0 {
		return 0, nil, errors.New("a port is a number from 1 to 65535")
	}
	toil, err = work(cost)
	return port, toil, err
}

func main() {
	port, toil, err := arguments(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "usage: goroutines PORT [--work WORK]\n%v\n", err)
		os.Exit(2)
	}
	listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		listener.(*net.TCPListener).SetDeadline(time.Now().Add(pause)) // who waits in the accept queue is still let in
	}()
	var clients sync.Map
	var conversations sync.WaitGroup
	for {
		client, err := listener.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			time.Sleep(pause) // while descriptors or memory are short the listener stays readable
			continue
		}
		clients.Store(client, nil)
		conversations.Add(1)
		go func() {
			converse(client, toil)
			clients.Delete(client)
			conversations.Done()
		}()
	}
	listener.Close()
	clients.Range(func(client, _ any) bool {
		client.(*net.TCPConn).CloseRead() // what has come is still read, and then its end
		return true
	})
	conversations.Wait()
}
