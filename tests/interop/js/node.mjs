// node node.mjs URL NAME VERSION: the conversation in Node; prints its result as JSON.
import mqtt from 'mqtt'
import { conversation } from './conversation.mjs'

const [url, name, version] = process.argv.slice(2)
const protocol = version === '3' ? { protocolVersion: 3, protocolId: 'MQIsdp' } : { protocolVersion: 4 }
console.log(JSON.stringify(await conversation(mqtt, url, name, protocol)))
process.exit(0)
