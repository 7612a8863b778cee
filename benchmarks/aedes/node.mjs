// One aedes node on the Redis at the port given, as its README shows it. Writes the port it listens on.
import { createServer } from 'node:net'
import { Aedes } from 'aedes'
import persistence from 'aedes-persistence-redis'
import emitter from 'mqemitter-redis'

const redis = { host: '127.0.0.1', port: Number(process.argv[2]) }
const broker = await Aedes.createBroker({ persistence: persistence(redis), mq: emitter(redis) })
const server = createServer(broker.handle)
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`))
