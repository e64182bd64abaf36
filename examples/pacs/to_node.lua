-- Called by Orthanc for each instance that it has stored: films go on to the node, whose results come back as OT and SR.
function OnStoredInstance(instance, tags, metadata, origin)
   if tags['Modality'] == 'CR' or tags['Modality'] == 'DX' then
      SendToModality(instance, 'node')
   end
end
