// One aedes: `node node.mjs TCP [WS TLS KEY CERTIFICATE]` alone in memory, or with REDIS=port in the environment one node
// on that Redis, as its README shows them.
import { readFileSync } from 'node:fs'
import { createServer as http } from 'node:http'
import { createServer as tcp } from 'node:net'
import { createServer as tls } from 'node:tls'
import { Aedes } from 'aedes'
import persistence from 'aedes-persistence-redis'
import emitter from 'mqemitter-redis'
import { createWebSocketStream, WebSocketServer } from 'ws'

const [tcpPort, wsPort, tlsPort, key, certificate] = process.argv.slice(2)
const redis = process.env.REDIS && { host: '127.0.0.1', port: Number(process.env.REDIS) }
const broker = await Aedes.createBroker(redis ? { persistence: persistence(redis), mq: emitter(redis) } : {})
if (wsPort) {
  const server = http()
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    broker.handle(createWebSocketStream(socket), request)
  })
  server.listen(wsPort, '127.0.0.1')
}
if (tlsPort) {
  tls({ key: readFileSync(key), cert: readFileSync(certificate) }, broker.handle).listen(tlsPort, '127.0.0.1')
}
tcp(broker.handle).listen(tcpPort, '127.0.0.1')
